"""When two rows are copies: Jaccard of their shingles, of the prompts and of the responses, with equal numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter_entp.texts import Text, plain

WIDTH = 8
"""Bytes of a shingle: eight letters of English, about three Chinese characters, which say as much."""

_SOFT = re.compile(r"[.,;:!?\"'’‘“”…`´。、،؛؟«»]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PARTS = "\x1d"


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
    """A row in the parts that are compared, each a spelled text: first and last paragraph of the query, all turns, response.

    A question stands in the first or the last paragraph. Compared by itself, it is not outvoted by a long passage that many
    questions share.
    """

    first: str
    last: str
    prompt: str
    response: str
    numbers: str

    @classmethod
    def of(cls, text: Text) -> Parts:
        """Take a row apart."""
        paragraphs = [
            part for part in re.split(r"\n\s*\n", text.query.strip()) if part.strip()
        ] or [""]
        prompt, response = spelled(text.plain_context), spelled(text.plain)
        single = len(paragraphs) == 1 and text.turns == text.query
        return cls(
            "" if single else spelled(plain(paragraphs[0])),
            "" if single else spelled(plain(paragraphs[-1])),
            prompt,
            response,
            " ".join(_numbers(text.asked)) + "|" + " ".join(_numbers(text.plain)),
        )

    def packed(self) -> bytes:
        """For a file."""
        joined = _PARTS.join((self.first, self.last, self.prompt, self.response, self.numbers))
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


@dataclass(frozen=True, slots=True)
class Shingled:
    """The parts of a row as shingles."""

    parts: tuple[npt.NDArray[np.uint32], ...]
    numbers: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, row: Parts) -> Shingled:
        """Shingle each part."""
        texts = (row.response, row.prompt, row.first, row.last)
        sides = tuple(frozenset(side.split()) for side in row.numbers.split("|"))
        return cls(tuple(shingles(text) for text in texts), sides)


def likeness(one: Shingled, other: Shingled, least: float) -> float | None:
    """The smallest Jaccard of any part, from ``least`` to 1; None for rows that are no copies.

    They are none either where each has a number, in prompt or response, that the other has not: the same words about 48
    clips and about 50 are two problems.
    """
    found = 1.0
    for first, second in zip(one.parts, other.parts, strict=True):
        few, many = sorted((len(first), len(second)))
        if few < least * many:
            return None
        found = min(found, jaccard(first, second))
        if found < least:
            return None
    if any(a - b and b - a for a, b in zip(one.numbers, other.numbers, strict=True)):
        return None
    return found
