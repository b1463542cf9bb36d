"""Statistics of how a dataset's responses end, and the responses that end unlike the others."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import JSON, hash_of
from nfilter_entp.purging.rules_truncated import Truncated, in_prose, is_open_ended
from nfilter_entp.purging.texts import Text

MAX_WORDS = 200_000
"""Maximum number of words kept to complete cut words: those with the lowest hashes; about 25 MB."""
_BITS = 25

_FIRST = re.compile(r"\s*(\S{1,40})")
_INFLECTED = re.compile(
    r"(?:'s|’s|e?s|e?d|r|er|ers|ing|ly|y|al|ally|n|en|e|i|o|a|t|ness|able|like|man|men|work|time)\Z"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """End of a response without a full stop: hashes of the first word of its last line and of its last word; 0 for none."""

    start: int = 0
    word: int = 0


@dataclass
class Vocabulary:
    """The words of a dataset: one bit per word hash in 4 MB, and a bounded set of the words. Independent of their order.

    Hash collisions (6% of new words at two million words) make an unknown word count as known.
    """

    words: set[str] = field(default_factory=set)
    bits: bytearray = field(default_factory=lambda: bytearray(1 << (_BITS - 3)))
    hash_limit: int = 1 << 32

    def add(self, words: Iterable[str]) -> None:
        """Add words."""
        for word in set(words) - self.words:
            key = _word_hash(word)
            bit = key >> (32 - _BITS)
            self.bits[bit >> 3] |= 1 << (bit & 7)
            if key < self.hash_limit:
                self.words.add(word)
        if len(self.words) > MAX_WORDS * 5 // 4:
            self._trim()

    def _trim(self) -> None:
        if len(self.words) > MAX_WORDS:
            self.hash_limit = sorted(map(_word_hash, self.words))[MAX_WORDS]
            self.words = {word for word in self.words if _word_hash(word) < self.hash_limit}

    def __contains__(self, word: str) -> bool:
        bit = _word_hash(word) >> (32 - _BITS)
        return bool(self.bits[bit >> 3] >> (bit & 7) & 1)

    def ordered(self) -> list[str]:
        """Return the words that are kept, sorted."""
        self._trim()
        return sorted(self.words)


def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


@dataclass
class EndingStatistics:
    """Collects the first words of last lines (bounded counts: Misra and Gries), the vocabulary, and last words. 8 bytes per row."""

    rule: Truncated
    rows: int = 0
    starts: Counter[int] = field(default_factory=Counter)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    last: dict[str, int] = field(default_factory=dict)

    def add(self, text: Text, *, rejected: bool) -> Ending:
        """Add a row. With ``rejected``, a rule has rejected its end already: only its words are added."""
        ending, word = Ending(), ""
        if not rejected:
            self._count_start(_last_line_start(text))
            ending, word = ending_of(text, self.rule)
            if ending.word and word in self.last:
                # A last word that repeats is a label: texts are rarely cut at the same word.
                self.vocabulary.add([word])
            elif ending.word:
                self.last[word] = ending.word
        self.vocabulary.add(text.query_words)
        self.vocabulary.add(text.words[:-1] if word else text.words)
        return ending

    def _count_start(self, start: int) -> None:
        self.rows += 1
        if start in self.starts or len(self.starts) < 64:
            self.starts[start] += 1
            return
        for key in list(self.starts):
            self.starts[key] -= 1
            if not self.starts[key]:
                del self.starts[key]

    def result(self) -> tuple[int, npt.NDArray[np.uint32]]:
        """Return the hash of the first word shared by at least ``habit`` of last lines, or 0; and the hashes of cut words, sorted."""
        candidates = [(count, start) for start, count in self.starts.items() if start]
        count, start = max(candidates, default=(0, 0))
        habit = start if self.rows >= 50 and count >= self.rule.habit * self.rows else 0
        words = self.vocabulary.ordered()
        cut = [
            number
            for word, number in self.last.items()
            if word not in self.vocabulary and _is_prefix(word, words)
        ]
        return habit, np.unique(np.array(cut, dtype=np.uint32))


def _is_prefix(word: str, words: list[str]) -> bool:
    """Return whether a known word continues this one by more than an inflection."""
    for other in words[(first := bisect_left(words, word)) : first + 50]:
        if not other.startswith(word):
            return False
        if not _INFLECTED.fullmatch(other[len(word) :]):
            return True
    return False


def _last_line_start(text: Text) -> int:
    whole = text.response.rstrip()
    cut = whole.rfind("\n")
    first = _FIRST.match(whole, cut + 1) if cut >= 0 else None
    return max(1, hash_of(first[1]) >> 32) if first else 0


def ending_of(text: Text, rule: Truncated) -> tuple[Ending, str]:
    """Return the end of a response and its last word; empty values if it is short, has code, or ends in a full stop."""
    whole = text.response.rstrip()
    if len(text.words) < rule.least or text.fenced or not is_open_ended(whole):
        return Ending(), ""
    word = text.words[-1]
    # Names may occur once, and list items end without a full stop.
    plain = len(word) > 1 and word.isalpha() and whole.endswith(word) and in_prose(whole)
    return Ending(max(1, _last_line_start(text)), hash_of(word) >> 32 if plain else 0), word


def unusual_reason(
    text: Text, rule: Truncated, habit: JSON, arrays: Mapping[str, npt.NDArray[Any]]
) -> str | None:
    """Return the reason if the row ends unlike the others."""
    ending, word = ending_of(text, rule)
    if is_unusual(ending, habit, arrays["cut_words"]):
        tail = text.response.rstrip()[-40:]
        if ending.word and _contains(arrays["cut_words"], ending.word):
            return (
                f"it ends within a word: {word!r} is no word, and words of other rows start with it"
            )
        return f"it ends without a full stop and without the last line that {rule.habit:g} of the responses have: {tail!r}"
    return None


def is_unusual(ending: Ending, habit: JSON, cut: npt.NDArray[Any]) -> bool:
    """Return whether a response ends within a word, or without the last line that the others have."""
    within = bool(ending.word) and _contains(cut, ending.word)
    return within or bool(habit and ending.start and ending.start != habit)


def _contains(keys: npt.NDArray[Any], key: int) -> bool:
    index = int(np.searchsorted(keys, np.uint32(key)))
    return index < len(keys) and int(keys[index]) == key
