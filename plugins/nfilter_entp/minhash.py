"""Banded MinHash signatures, packed: find near duplicates without comparing all pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

BANDS, ROWS = 25, 5
"""Rows of Jaccard similarity s share a band with probability 1 - (1 - s^5)^25: .990 at .7, .72 at .55, .06 at .3."""

_BLOCK = 2**14


def _identity(value: Any) -> Any:
    return value


class Sketcher:
    """Signatures from datasketch's MinHash, reduced to ``BANDS`` 4-byte hashes per row."""

    def __init__(self) -> None:
        from datasketch import MinHash

        # Shingles are already hashed; passing a whole array as one value avoids a Python loop over its items.
        self._sketch = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=_identity)

    def signature(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Return the MinHash of 32-bit hashes, uint32 [BANDS * ROWS]."""
        self._sketch.clear()
        if len(hashes) > _BLOCK:
            hashes = np.unique(hashes)  # long texts repeat shingles; the minimum needs each once
        for start in range(0, len(hashes), _BLOCK):
            self._sketch.update_batch([hashes[start : start + _BLOCK]])
        return np.asarray(self._sketch.hashvalues).astype(np.uint32)

    def bands(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Return one hash per band of the signature, uint32 [BANDS]."""
        values = self.signature(hashes).reshape(BANDS, ROWS).astype(np.uint64)
        mixed = np.zeros(BANDS, np.uint64)
        for row in range(ROWS):
            mixed = (mixed ^ values[:, row]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
        return (mixed & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def digest(*texts: str) -> bytes:
    """Return a 128-bit hash of the texts."""
    joined = "\x1d".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).digest()


def group_numbers(column: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Number the values that occur at least twice, from 0 in no fixed order, int32 [n]; -1 for unique values."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    new = (
        np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(column) else np.empty(0, bool)
    )
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(column)))
    repeated = sizes > 1
    numbers = np.where(repeated, np.cumsum(repeated) - 1, -1).astype(np.int32)
    out = np.empty(len(column), np.int32)
    out[order] = np.repeat(numbers, sizes)
    return out


class Leaders:
    """Rows that stay, by group: linked lists in flat arrays."""

    def __init__(self, groups: int) -> None:
        self._head = np.full(groups, -1, np.int32)
        self._rows = np.empty(1024, np.int32)
        self._next = np.empty(1024, np.int32)
        self._used = 0

    def add(self, row: int, groups: Iterable[int]) -> None:
        """Add a row to its groups."""
        for group in groups:
            if self._used == len(self._rows):
                self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
                self._next = np.concatenate([self._next, np.empty_like(self._next)])
            self._rows[self._used], self._next[self._used] = row, self._head[group]
            self._head[group] = self._used
            self._used += 1

    def of(self, group: int, most: int) -> Iterator[int]:
        """Yield at most ``most`` rows of a group, the newest first."""
        position = int(self._head[group])
        while position >= 0 and most:
            yield int(self._rows[position])
            position, most = int(self._next[position]), most - 1
