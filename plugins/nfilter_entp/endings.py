"""How a dataset's responses end, and which of them end unlike all others: what the rule on ends learns from all rows."""

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
from nfilter_entp.rules_end import Truncated, ends_open, in_prose
from nfilter_entp.texts import Text

KNOWN = 200_000
"""So many words are kept at most, to look for what a cut word began: those of the lowest hashes; some 25 MB."""
_BITS = 25

_FIRST = re.compile(r"\s*(\S{1,40})")
_INFLECTED = re.compile(
    r"(?:'s|’s|e?s|e?d|r|er|ers|ing|ly|y|al|ally|n|en|e|i|o|a|t|ness|able|like|man|men|work|time)\Z"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """Of a response that ends without a stop: numbers for the first word of its last line and for its last word, else 0."""

    start: int = 0
    word: int = 0


@dataclass
class Vocabulary:
    """All words of a dataset, whatever their order: a bit for each in 4 MB, and some of the words themselves.

    Two words share a bit by chance (6% of new words at two million): then one that is not there passes for one that is.
    """

    words: set[str] = field(default_factory=set)
    bits: bytearray = field(default_factory=lambda: bytearray(1 << (_BITS - 3)))
    bound: int = 1 << 32

    def add(self, words: Iterable[str]) -> None:
        """Take words in."""
        for word in set(words) - self.words:
            key = _key(word)
            place = key >> (32 - _BITS)
            self.bits[place >> 3] |= 1 << (place & 7)
            if key < self.bound:
                self.words.add(word)
        if len(self.words) > KNOWN * 5 // 4:
            self._bind()

    def _bind(self) -> None:
        if len(self.words) > KNOWN:
            self.bound = sorted(map(_key, self.words))[KNOWN]
            self.words = {word for word in self.words if _key(word) < self.bound}

    def __contains__(self, word: str) -> bool:
        place = _key(word) >> (32 - _BITS)
        return bool(self.bits[place >> 3] >> (place & 7) & 1)

    def ordered(self) -> list[str]:
        """The words that are kept, sorted."""
        self._bind()
        return sorted(self.words)


def _key(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


@dataclass
class Endings:
    """Collects the last lines' first words (bounded, Misra and Gries), all words, and the last words, 8 bytes a row."""

    rule: Truncated
    seen: int = 0
    starts: Counter[int] = field(default_factory=Counter)
    known: Vocabulary = field(default_factory=Vocabulary)
    last: dict[str, int] = field(default_factory=dict)

    def add(self, text: Text, *, judged: bool) -> Ending:
        """Learn from a row; ``judged`` says that it is out already, and teaches nothing of ends."""
        ending, word = Ending(), ""
        if not judged:
            self._count(_start_of(text))
            ending, word = ending_of(text, self.rule)
            if ending.word and word in self.last:
                # Texts are rarely cut alike, and labels are alike.
                self.known.add([word])
            elif ending.word:
                self.last[word] = ending.word
        self.known.add(text.asked_words)
        self.known.add(text.words[:-1] if word else text.words)
        return ending

    def _count(self, start: int) -> None:
        self.seen += 1
        if start in self.starts or len(self.starts) < 64:
            self.starts[start] += 1
            return
        for key in list(self.starts):
            self.starts[key] -= 1
            if not self.starts[key]:
                del self.starts[key]

    def settle(self) -> tuple[int, npt.NDArray[np.uint32]]:
        """The first word that the share ``habit`` of last lines has, or 0; and last words that are none, sorted."""
        known = [(count, start) for start, count in self.starts.items() if start]
        count, start = max(known, default=(0, 0))
        habit = start if self.seen >= 50 and count >= self.rule.habit * self.seen else 0
        words = self.known.ordered()
        cut = [
            number
            for word, number in self.last.items()
            if word not in self.known and _begins(word, words)
        ]
        return habit, np.unique(np.array(cut, dtype=np.uint32))


def _begins(word: str, words: list[str]) -> bool:
    """Whether a known word goes on where this one ends, by more than an ending."""
    for other in words[(place := bisect_left(words, word)) : place + 50]:
        if not other.startswith(word):
            return False
        if not _INFLECTED.fullmatch(other[len(word) :]):
            return True
    return False


def _start_of(text: Text) -> int:
    whole = text.response.rstrip()
    cut = whole.rfind("\n")
    first = _FIRST.match(whole, cut + 1) if cut >= 0 else None
    return max(1, hash_of(first[1]) >> 32) if first else 0


def ending_of(text: Text, rule: Truncated) -> tuple[Ending, str]:
    """How a response of enough words ends, and its last word; nothing of one that ends in a stop."""
    whole = text.response.rstrip()
    if len(text.words) < rule.least or text.fenced or not ends_open(whole):
        return Ending(), ""
    word = text.words[-1]
    # Names are seen once, and items of a list end in no stop.
    plain = len(word) > 1 and word.isalpha() and whole.endswith(word) and in_prose(whole)
    return Ending(max(1, _start_of(text)), hash_of(word) >> 32 if plain else 0), word


def unusual(
    text: Text, rule: Truncated, habit: JSON, arrays: Mapping[str, npt.NDArray[Any]]
) -> str | None:
    """Why the row ends unlike the others."""
    ending, word = ending_of(text, rule)
    if odd(ending, habit, arrays["cut_words"]):
        tail = text.response.rstrip()[-40:]
        if ending.word and _among(arrays["cut_words"], ending.word):
            return f"it ends within a word: {word!r} begins words of other rows and is none"
        return f"it ends without a stop and without the last line that {rule.habit:g} of the responses have: {tail!r}"
    return None


def odd(ending: Ending, habit: JSON, cut: npt.NDArray[Any]) -> bool:
    """Whether a response ends within a word, or without the line that all others end with."""
    within = bool(ending.word) and _among(cut, ending.word)
    return within or bool(habit and ending.start and ending.start != habit)


def _among(keys: npt.NDArray[Any], key: int) -> bool:
    place = int(np.searchsorted(keys, np.uint32(key)))
    return place < len(keys) and int(keys[place]) == key
