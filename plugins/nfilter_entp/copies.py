"""When two rows are copies: Jaccard of their shingles, of the prompts and of the responses, and the same question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter_entp.rules_end import code_marks
from nfilter_entp.texts import FENCE, Text, plain, words_of

WIDTH = 8
"""Bytes of a shingle: eight letters of English, about three Chinese characters, which say as much."""
LABEL = 60
"""A response of fewer shingles, about eleven words, may answer many questions: then the prompts must agree word by word."""

_SOFT = re.compile(r"[.,;:!?\"'’‘“”…`´。、،؛؟«»]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PARTS = "\x1d"
# Operators and emoji ask something else; brackets, dashes and marks of headings, lists and tables are form.
_SIGN = re.compile(r"-(?=\d)|\*(?=\s?\d)|(?<=\w)#|[^\w\s()\[\]{}#–—*•·|-]")
_FREE = frozenset([
    "a", "an", "the", "please", "of", "is", "are", "was", "were", "be", "do", "does", "did", "can", "could", "will",
    "would", "you", "we", "me", "us", "my", "your",
])  # fmt: skip
# A letter alone is one of these misspelt, but not BC.
_SMALL = frozenset([
    "in", "on", "to", "at", "by", "it", "he", "if", "as", "or", "so", "up", "of", "is", "an", "be", "do", "we", "me", "us", "my",
])  # fmt: skip
# "t" is what is left of "don't".
_NOT = frozenset(["not", "no", "never", "cannot", "without", "t"])


def spelled(text: str) -> str:
    """A plain text (``texts.plain``) without stops and quotes, for comparing."""
    return " ".join(_SOFT.sub(" ", text).split())


def shingles(text: str, salt: int = 0) -> npt.NDArray[np.uint32]:
    """Hashes of all runs of eight bytes of a spelled text, sorted and unique, uint32; a shorter text is one shingle."""
    hashes = np.sort(_hashes(text, salt))
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def _hashes(text: str, salt: int) -> npt.NDArray[np.uint32]:
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        return np.empty(0, np.uint32)
    raw = raw.ljust(WIDTH)
    # Eight bytes from every byte on, as one number each: the same buffer, read in steps of one.
    words: npt.NDArray[np.uint64] = np.ndarray((len(raw) - WIDTH + 1,), "<u8", raw, 0, (1,))
    mixed = (words + np.uint64(salt)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def jaccard(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """|A and B| / |A or B| of two sorted arrays without repeats; 1 where both are empty."""
    if not len(first) and not len(second):
        return 1.0
    together = np.sort(np.concatenate([first, second]))
    both = int(np.count_nonzero(together[1:] == together[:-1]))
    return both / (len(first) + len(second) - both)


@dataclass(frozen=True, slots=True)
class Parts:
    """A row in the parts that are compared, each a spelled text: first and last line of the query, all turns, response.

    A question stands in the first or the last line. Compared by itself, it is not outvoted by a long passage that many
    questions share. ``depths`` are those of code lines, in prompt and response.
    """

    first: str
    last: str
    prompt: str
    response: str
    numbers: str
    depths: str

    @classmethod
    def of(cls, text: Text) -> Parts:
        """Take a row apart."""
        lines = text.query.strip().splitlines() or [""]
        prompt, response = spelled(text.plain_context), spelled(text.plain)
        single = len(lines) == 1 and text.turns == text.query
        return cls(
            "" if single else spelled(plain(lines[0])),
            "" if single else spelled(plain(lines[-1])),
            prompt,
            response,
            " ".join(_numbers(text.asked)) + "|" + " ".join(_numbers(text.plain)),
            depths_of(text),
        )

    def packed(self) -> bytes:
        """For a file."""
        joined = _PARTS.join(
            (self.first, self.last, self.prompt, self.response, self.numbers, self.depths)
        )
        return joined.encode("utf-8", "surrogatepass")

    @classmethod
    def unpacked(cls, raw: bytes) -> Parts:
        """The reverse of ``packed``."""
        return cls(*raw.decode("utf-8", "surrogatepass").split(_PARTS))

    def joint(self) -> npt.NDArray[np.uint32]:
        """Shingles of prompt and response, told apart, as a sequence with repeats: where both have a Jaccard of t, this has t at least."""
        return np.concatenate([_hashes(self.prompt, 0), _hashes(self.response, 1)])


def _numbers(text: str) -> list[str]:
    return sorted({found.replace(",", "") for found in _NUMBER.findall(text)})


def depths_of(text: Text) -> str:
    """How deep each line of code is, in prompt and response: a line that moves out of a loop is another program."""
    return f"{_depths(text.turns)}|{_depths(text.response)}"


def _depths(text: str) -> str:
    if "\n" not in text or not (FENCE.search(text) or code_marks(text)):
        return ""
    levels, found = [0], []
    for line in text.expandtabs(4).splitlines():
        if not (bare := line.lstrip()):
            continue
        indent = len(line) - len(bare)
        while indent < levels[-1]:
            levels.pop()
        if indent > levels[-1]:
            levels.append(indent)
        found.append(chr(48 + min(len(levels) - 1, 60)))
    said = "".join(found)
    return said if said.strip("0") else ""


@dataclass(frozen=True)
class Shingled:
    """The parts of a row as shingles, and its prompt's words."""

    parts: tuple[npt.NDArray[np.uint32], ...]
    numbers: tuple[frozenset[str], ...]
    depths: tuple[str, ...]
    prompt: str

    @classmethod
    def of(cls, row: Parts) -> Shingled:
        """Shingle each part."""
        texts = (row.response, row.prompt, row.first, row.last)
        sides = tuple(frozenset(side.split()) for side in row.numbers.split("|"))
        depths = tuple(row.depths.split("|"))
        return cls(tuple(shingles(text) for text in texts), sides, depths, row.prompt)

    @cached_property
    def words(self) -> list[str]:
        """Words of the prompt; one that is there twice in a row is there once."""
        words = words_of(self.prompt)
        return words[:1] + [word for before, word in pairwise(words) if word != before]

    @cached_property
    def signs(self) -> list[str]:
        """Operators, emoji and the like in the prompt."""
        return _SIGN.findall(self.prompt)

    @cached_property
    def bag(self) -> Counter[str]:
        """Both, counted."""
        return Counter([*self.words, *self.signs])


def likeness(one: Shingled, other: Shingled, least: float) -> float | None:
    """The smallest Jaccard of any part, from ``least`` to 1; None for rows that are no copies.

    They are none either where each has a number, in prompt or response, that the other has not (the same words about 48
    clips and about 50 are two problems), where lines of code are at other depths, and where another question is asked. With a
    label for a response that is any other word in the prompt; else it is one that the other has not, on both sides, or a
    negation on one.
    """
    if _unlike(one, other, least):
        return None
    found = 1.0
    for first, second in zip(one.parts, other.parts, strict=True):
        found = min(found, jaccard(first, second))
        if found < least:
            return None
    return None if _asks_another(one, other) else found


def _unlike(one: Shingled, other: Shingled, least: float) -> bool:
    """What costs less to see than a Jaccard: rows of a template have many neighbours that are no copies."""
    if any(a - b and b - a for a, b in zip(one.numbers, other.numbers, strict=True)):
        return True
    if any(a != b and len(a) == len(b) for a, b in zip(one.depths, other.depths, strict=True)):
        return True
    for first, second in zip(one.parts, other.parts, strict=True):
        few, many = sorted((len(first), len(second)))
        if few < least * many:
            return True
    if max(len(one.parts[0]), len(other.parts[0])) < LABEL:
        return not _worded_alike(one, other)
    mine, theirs = one.bag.keys(), other.bag.keys()
    return _each_has_its_own(mine - theirs, theirs - mine)


def _worded_alike(one: Shingled, other: Shingled) -> bool:
    """Whether the prompts agree word by word, but for the spelling of longer ones."""
    return (
        one.signs == other.signs
        and len(one.words) == len(other.words)
        and all(
            a == b or (min(len(a), len(b)) > 3 and a[0] == b[0] and _spelled_alike(a, b))
            for a, b in zip(one.words, other.words, strict=True)
        )
    )


def _asks_another(one: Shingled, other: Shingled) -> bool:
    """Whether each prompt has a word, or a word once more, that the other has not, or one of them a negation more."""
    more, less = one.bag - other.bag, other.bag - one.bag
    return bool(_NOT.intersection([*more, *less])) or _each_has_its_own(more, less)


def _each_has_its_own(more: Collection[str], less: Collection[str]) -> bool:
    own = [word for word in more if word not in _FREE and not word.isdigit()]
    others = [word for word in less if word not in _FREE and not word.isdigit()]
    if len(own) * len(others) > 10_000:
        return True
    return _has_its_own(own, others) and _has_its_own(others, own)


def _has_its_own(own: list[str], others: list[str]) -> bool:
    return any(not any(_spelled_alike(word, other) for other in others) for word in own)


def _spelled_alike(one: str, other: str) -> bool:
    """Words that differ by a letter more or by two that are swapped; Henry V and VI are two, and so are a and b."""
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) > 1 or set(long) <= set("ivx"):
        return False
    if len(short) < 2 and long not in _SMALL:
        return False
    place = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))  # fmt: skip
    if len(short) < len(long):
        return short[place:] == long[place + 1 :]
    swapped = long[place : place + 2][::-1] + long[place + 2 :]
    return short[place:] == swapped
