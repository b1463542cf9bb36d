"""Exact selection of the highest scores in a stable order, in two passes and without holding the scores in memory.

The order is score descending, then sample, then position (as ``argsort(-scores, kind="stable")`` over the flat
pool); NaN comes last. The cut is found with two counting passes over 16 bits of a key each.
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
_PARTS = 2**12
_BINS = 2**16


@dataclass(frozen=True, slots=True)
class Cut:
    """Threshold that keeps every key above ``key`` and the first ``ties`` keys equal to it."""

    key: int
    ties: int

    def above(self, scores: FloatArray) -> BoolArray:
        """Return the mask ([n]) of scores above the cut."""
        above: BoolArray = keys_of(scores) > self.key
        return above

    def at(self, scores: FloatArray) -> BoolArray:
        """Return the mask ([n]) of scores equal to the cut; their order decides which are kept."""
        equal: BoolArray = keys_of(scores) == self.key
        return equal


def keys_of(scores: FloatArray) -> Keys:
    """Map float32 ``scores`` to unsigned integers in the same order; -0 equals 0, and NaN is below all numbers."""
    plain = np.asarray(scores, dtype=np.float32) + np.float32(0)
    bits = plain.view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    keys = np.where(negative, ~bits, bits | np.uint32(0x80000000))
    return np.where(np.isnan(plain), np.uint32(0), keys)


def find_cut(parts: Iterable[FloatArray], keep: int) -> Cut:
    """Return the cut that keeps ``keep`` of all scores in ``parts``, or all scores if there are fewer.

    Args:
        parts: the scores; iterated twice. Counters of several parts are added, so the parts need not be in memory together.
        keep: number of scores to keep.
    """
    if keep <= 0:
        return Cut(_BINS * _BINS, 0)  # above every key
    high_counts = _count_bins(keys >> np.uint32(16) for keys in _key_blocks(parts))
    if keep >= high_counts.sum():
        return Cut(-1, 0)
    high_bin, above = _bin_of(high_counts, keep)
    low_counts = _count_bins(
        keys[keys >> np.uint32(16) == high_bin] & np.uint32(0xFFFF) for keys in _key_blocks(parts)
    )
    low_bin, above_inside = _bin_of(low_counts, keep - above)
    return Cut(int(high_bin) * _BINS + low_bin, keep - above - above_inside)


def highest(scores: FloatArray, keep: int) -> BoolArray:
    """Return the mask ([n]) of the first ``keep`` scores in order."""
    cut = find_cut([scores], keep)
    kept = cut.above(scores)
    kept[np.flatnonzero(cut.at(scores))[: cut.ties]] = True
    return kept


def _key_blocks(parts: Iterable[FloatArray]) -> Iterator[Keys]:
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            yield keys_of(part[start : start + _BLOCK])


def _count_bins(blocks: Iterable[Keys]) -> npt.NDArray[np.int64]:
    counts = np.zeros(_BINS, dtype=np.int64)
    buffered: list[Keys] = []
    size = 0
    # Short parts are counted together: one pass over all bins per sample would dominate.
    for block in blocks:
        buffered.append(block)
        size += len(block)
        if size >= _BLOCK or len(buffered) >= _PARTS:
            counts += _histogram(buffered)
            buffered, size = [], 0
    return counts + _histogram(buffered) if buffered else counts


def _histogram(blocks: Sequence[Keys]) -> Any:
    return np.bincount(np.concatenate(blocks), minlength=_BINS)


def _bin_of(counts: npt.NDArray[np.int64], keep: int) -> tuple[int, int]:
    """Return the bin of the ``keep``-th highest key and the number of keys in the bins above it."""
    from_above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_above, keep))
    above = int(from_above[index - 1]) if index else 0
    return _BINS - 1 - index, above
