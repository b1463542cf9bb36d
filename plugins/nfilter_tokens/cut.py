"""Which scores are among the highest: exact, in a stable order, in little more memory than the scores take.

The order is score descending, then sample, then position (what ``argsort(-scores, kind="stable")`` gives over the
flat pool); NaN comes last. The cut is found by counting: two passes over 16 bits of a key each, so that 100 million
scores need no copy of themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nfilter import BoolArray, FloatArray

Keys: TypeAlias = npt.NDArray[np.uint32]

_BLOCK = 2**20
_BINS = 2**16


@dataclass(frozen=True, slots=True)
class Cut:
    """Keeps every key above ``key``, and of those equal to it the first ``ties`` in order."""

    key: int
    ties: int

    def above(self, scores: FloatArray) -> BoolArray:
        """Which of ``scores`` are kept whatever the order."""
        over: BoolArray = keys_of(scores) > self.key
        return over

    def at(self, scores: FloatArray) -> BoolArray:
        """Which of ``scores`` lie on the cut itself: their order decides."""
        on: BoolArray = keys_of(scores) == self.key
        return on


def keys_of(scores: FloatArray) -> Keys:
    """Unsigned integers in the order of float32 ``scores``; -0 is 0, and NaN is below all numbers."""
    plain = np.asarray(scores, dtype=np.float32) + np.float32(0)
    bits = plain.view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    keys = np.where(negative, ~bits, bits | np.uint32(0x80000000))
    return np.where(np.isnan(plain), np.uint32(0), keys)


def find_cut(parts: Sequence[FloatArray], keep: int) -> Cut:
    """The cut that keeps ``keep`` of all scores in ``parts``; all of them where there are no more."""
    if keep <= 0:
        return Cut(_BINS * _BINS, 0)  # above every key
    total = sum(len(part) for part in parts)
    if keep >= total:
        return Cut(-1, 0)
    high = _counted(keys >> np.uint32(16) for keys in _blocks(parts))
    top, over = _bin_of(high, keep)
    low = _counted(
        keys[keys >> np.uint32(16) == top] & np.uint32(0xFFFF) for keys in _blocks(parts)
    )
    bottom, inside = _bin_of(low, keep - over)
    return Cut(int(top) * _BINS + bottom, keep - over - inside)


def highest(scores: FloatArray, keep: int) -> BoolArray:
    """Which of ``scores`` ([n]) are among the first ``keep`` in order."""
    cut = find_cut([scores], keep)
    kept = cut.above(scores)
    kept[np.flatnonzero(cut.at(scores))[: cut.ties]] = True
    return kept


def _blocks(parts: Iterable[FloatArray]) -> Iterator[Keys]:
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            yield keys_of(part[start : start + _BLOCK])


def _counted(blocks: Iterable[Keys]) -> npt.NDArray[np.int64]:
    counts = np.zeros(_BINS, dtype=np.int64)
    waiting: list[Keys] = []
    size = 0
    # Short parts are counted together: a pass over all bins for each sample would dominate.
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= _BLOCK:
            counts += _histogram(waiting)
            waiting, size = [], 0
    return counts + _histogram(waiting) if waiting else counts


def _histogram(blocks: Sequence[Keys]) -> Any:
    return np.bincount(np.concatenate(blocks), minlength=_BINS)


def _bin_of(counts: npt.NDArray[np.int64], keep: int) -> tuple[int, int]:
    """The bin in which the ``keep``-th highest lies, and how many lie in the bins above it."""
    from_above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_above, keep))
    above = int(from_above[place - 1]) if place else 0
    return _BINS - 1 - place, above
