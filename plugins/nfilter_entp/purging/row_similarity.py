"""Compare two rows: Jaccard similarity of prompts and of responses, and whether they ask the same question."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter_entp.purging.rules_truncated import code_marks
from nfilter_entp.purging.texts import FENCE, Text, plain, words_of

WIDTH = 8
"""Bytes per shingle: eight English letters, or about three Chinese characters."""
LABEL = 60
"""Below this number of shingles (about eleven words) a response may answer many questions; prompts must then agree word by word."""

_PUNCTUATION = re.compile(r"[.,;:!?\"'’‘“”…`´。、،؛؟«»]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PARTS = "\x1d"
# Operators and emoji change the question; brackets, dashes, and heading, list and table marks are formatting.
_SIGN = re.compile(r"-(?=\d)|\*(?=\s?\d)|(?<=\w)#|[^\w\s()\[\]{}#–—*•·|-]")
_FUNCTION_WORDS = frozenset([
    "a", "an", "the", "please", "of", "is", "are", "was", "were", "be", "do", "does", "did", "can", "could", "will",
    "would", "you", "we", "me", "us", "my", "your",
])  # fmt: skip
# Words that a single letter can be a misspelling of; "BC" is not one.
_SHORT_WORDS = frozenset([
    "in", "on", "to", "at", "by", "it", "he", "if", "as", "or", "so", "up", "of", "is", "an", "be", "do", "we", "me", "us", "my",
])  # fmt: skip
# "t" is the remainder of "don't".
_NEGATIONS = frozenset(["not", "no", "never", "cannot", "without", "t"])


def without_punctuation(text: str) -> str:
    """Return a normalised text (``texts.plain``) without punctuation and quotes."""
    return " ".join(_PUNCTUATION.sub(" ", text).split())


def shingles(text: str) -> npt.NDArray[np.uint32]:
    """Return the hashes of all 8-byte runs of a text, sorted and unique, uint32; a shorter text is one shingle."""
    hashes = np.sort(_hashes(text, 0))
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def _hashes(text: str, salt: int) -> npt.NDArray[np.uint32]:
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        return np.empty(0, np.uint32)
    raw = raw.ljust(WIDTH)
    # A strided view: the eight bytes at each offset as one number.
    words: npt.NDArray[np.uint64] = np.ndarray((len(raw) - WIDTH + 1,), "<u8", raw, 0, (1,))
    mixed = (words + np.uint64(salt)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def jaccard(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return |A and B| / |A or B| of two sorted arrays without repeats; 1 if both are empty."""
    if not len(first) and not len(second):
        return 1.0
    together = np.sort(np.concatenate([first, second]))
    both = int(np.count_nonzero(together[1:] == together[:-1]))
    return both / (len(first) + len(second) - both)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a row that are compared, as ``spelled`` texts: first and last line of the query, all turns, response.

    The question is usually in the first or the last line. These are compared separately, so that a long passage shared by many
    questions does not outweigh it. ``depths``: nesting depths of code lines in prompt and response.
    """

    first: str
    last: str
    prompt: str
    response: str
    numbers: str
    depths: str

    @classmethod
    def of(cls, text: Text) -> Parts:
        """Split a row into parts."""
        lines = text.query.strip().splitlines() or [""]
        prompt, response = without_punctuation(text.plain_context), without_punctuation(text.plain)
        single = len(lines) == 1 and text.turns == text.query
        return cls(
            "" if single else without_punctuation(plain(lines[0])),
            "" if single else without_punctuation(plain(lines[-1])),
            prompt,
            response,
            " ".join(_numbers(text.plain_query)) + "|" + " ".join(_numbers(text.plain)),
            depths_of(text),
        )

    def packed(self) -> bytes:
        """Serialize the parts."""
        joined = _PARTS.join(
            (self.first, self.last, self.prompt, self.response, self.numbers, self.depths)
        )
        return joined.encode("utf-8", "surrogatepass")

    @classmethod
    def unpacked(cls, raw: bytes) -> Parts:
        """Deserialize the output of ``packed``."""
        return cls(*raw.decode("utf-8", "surrogatepass").split(_PARTS))

    def joint(self) -> npt.NDArray[np.uint32]:
        """Return the shingles of prompt and response, salted differently, with repeats.

        If both have a Jaccard similarity of at least t, so has the result.
        """
        return np.concatenate([_hashes(self.prompt, 0), _hashes(self.response, 1)])


def _numbers(text: str) -> list[str]:
    return sorted({number.replace(",", "") for number in _NUMBER.findall(text)})


def depths_of(text: Text) -> str:
    """Return the nesting depth of each code line in prompt and response: moving a line out of a loop changes the program."""
    return f"{_depths(text.turns)}|{_depths(text.response)}"


def _depths(text: str) -> str:
    if "\n" not in text or not (FENCE.search(text) or code_marks(text)):
        return ""
    levels, depths = [0], []
    for line in text.expandtabs(4).splitlines():
        if not (bare := line.lstrip()):
            continue
        indent = len(line) - len(bare)
        while indent < levels[-1]:
            levels.pop()
        if indent > levels[-1]:
            levels.append(indent)
        depths.append(chr(48 + min(len(levels) - 1, 60)))
    encoded = "".join(depths)
    return encoded if encoded.strip("0") else ""


def question_hash(text: Text) -> int:
    """Return a 32-bit hash of the query's words, in any order, without function words: rows with equal ones ask the same question."""
    words = sorted(set(text.query_words) - _FUNCTION_WORDS)
    return zlib.crc32(" ".join(words).encode("utf-8", "surrogatepass"))


class Shingled:
    """The parts of a row, and their shingles and words, which are computed on first use."""

    def __init__(self, row: Parts) -> None:
        self.texts = (row.response, row.prompt, row.first, row.last)
        self.prompt, self.numbers, self.depths = row.prompt, row.numbers, row.depths
        self._shingles: list[npt.NDArray[np.uint32] | None] = [None] * len(self.texts)

    def part(self, number: int) -> npt.NDArray[np.uint32]:
        """Return the shingles of a part."""
        found = self._shingles[number]
        if found is None:
            found = self._shingles[number] = shingles(self.texts[number])
        return found

    @cached_property
    def is_label(self) -> bool:
        """Whether the response has fewer than ``LABEL`` shingles."""
        start = self.texts[0][: 3 * LABEL]
        return len(shingles(start)) < LABEL and len(self.part(0)) < LABEL

    @cached_property
    def number_sides(self) -> tuple[frozenset[str], ...]:
        """Numbers of prompt and response."""
        return tuple(frozenset(side.split()) for side in self.numbers.split("|"))

    @cached_property
    def words(self) -> list[str]:
        """Words of the prompt, without immediate repeats."""
        words = words_of(self.prompt)
        return words[:1] + [word for before, word in pairwise(words) if word != before]

    @cached_property
    def signs(self) -> list[str]:
        """Operators, emoji and similar signs of the prompt."""
        return _SIGN.findall(self.prompt)

    @cached_property
    def bag(self) -> Counter[str]:
        """Words and signs with their counts."""
        return Counter([*self.words, *self.signs])

    @cached_property
    def content(self) -> frozenset[str]:
        """Words and signs that make another question."""
        return frozenset(_content_words(self.bag))


def similarity_of(one: Shingled, other: Shingled, least: float) -> float | None:
    """Return the smallest Jaccard similarity over all parts if it is at least ``least``; None if the rows are not near duplicates.

    They are not if each has a number that the other lacks, in prompt or in response ("48 clips", "50 clips"), if code lines have
    other depths, or if the prompts ask different questions: with a label as response, if any word differs; else if each has a
    word that the other lacks, or one has an extra negation.
    """
    if _cannot_match(one, other):
        return None
    differing = [part for part in range(len(one.texts)) if one.texts[part] != other.texts[part]]
    for part in differing:
        smaller, larger = sorted((len(one.part(part)), len(other.part(part))))
        if smaller < least * larger:
            return None
    similarity = 1.0
    for part in differing:
        similarity = min(similarity, jaccard(one.part(part), other.part(part)))
        if similarity < least:
            return None
    return None if _different_question(one, other) else similarity


def _cannot_match(one: Shingled, other: Shingled) -> bool:
    """Cheap rejection before Jaccard: rows of one template have many candidates that are not duplicates."""
    if one.numbers != other.numbers and any(
        a - b and b - a for a, b in zip(one.number_sides, other.number_sides, strict=True)
    ):
        return True
    if one.depths != other.depths and any(
        a != b and len(a) == len(b)
        for a, b in zip(one.depths.split("|"), other.depths.split("|"), strict=True)
    ):
        return True
    if one.prompt == other.prompt:
        return False
    if one.is_label and other.is_label:
        return not _same_wording(one, other)
    return _has_own_words(one.content - other.content, other.content - one.content)


def _same_wording(one: Shingled, other: Shingled) -> bool:
    """Return whether the prompts agree word by word, up to the spelling of longer words."""
    return (
        one.signs == other.signs
        and len(one.words) == len(other.words)
        and all(
            a == b or (min(len(a), len(b)) > 3 and a[0] == b[0] and _spelling_variant(a, b))
            for a, b in zip(one.words, other.words, strict=True)
        )
    )


def _different_question(one: Shingled, other: Shingled) -> bool:
    """Return whether each prompt has a word, or an occurrence of it, that the other lacks, or one has an extra negation."""
    if one.prompt == other.prompt:
        return False
    added, missing = one.bag - other.bag, other.bag - one.bag
    if _NEGATIONS.intersection([*added, *missing]):
        return True
    return _has_own_words(_content_words(added), _content_words(missing))


def _content_words(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in _FUNCTION_WORDS and not word.isdigit()]


def _has_own_words(added: Collection[str], missing: Collection[str]) -> bool:
    """Return whether each side has a word that is no spelling variant of any word of the other side."""
    if not added or not missing:
        return False
    if len(added) == len(missing) == 1:  # usual in a template
        return not _spelling_variant(*added, *missing)
    if len(added) * len(missing) > 10_000:
        return True
    return _has_unmatched_word(added, missing) and _has_unmatched_word(missing, added)


def _has_unmatched_word(own: Collection[str], others: Collection[str]) -> bool:
    return any(not any(_spelling_variant(word, other) for other in others) for word in own)


def _spelling_variant(one: str, other: str) -> bool:
    """Return whether words differ by one letter or one swap; Roman numerals and single letters are never variants."""
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    if len(long) - len(short) > 1:
        return False
    # One letter or swap in a word of three letters or more leaves the first or the last letter.
    if len(long) > 2 and short[0] != long[0] and short[-1] != long[-1]:
        return False
    if set(long) <= set("ivx"):
        return False
    if len(short) < 2 and long not in _SHORT_WORDS:
        return False
    position = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))  # fmt: skip
    if len(short) < len(long):
        return short[position:] == long[position + 1 :]
    swapped = long[position : position + 2][::-1] + long[position + 2 :]
    return short[position:] == swapped
