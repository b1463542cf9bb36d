"""MinHash signatures in bands, packed: how near copies find one another without comparing all pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

BANDS, ROWS = 25, 5
"""Two rows of Jaccard s share a band with the chance 1 - (1 - s^5)^25: .990 at .7, .72 at .55, .006 at .3 (.0000025 x 25 at .1)."""

_BLOCK = 2**14


def _itself(value: Any) -> Any:
    return value


class Sketcher:
    """Signatures by datasketch's MinHash, as ``BANDS`` hashes of four bytes a row."""

    def __init__(self) -> None:
        from datasketch import MinHash

        # Shingles are hashed already. A whole array is given as one value, so that nothing runs over its items in Python.
        self._sketch = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=_itself)

    def signature(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """MinHash of 32-bit hashes, uint32 [BANDS * ROWS]."""
        self._sketch.clear()
        if len(hashes) > _BLOCK:
            hashes = np.unique(hashes)  # a long text repeats itself, and a minimum needs each once
        for start in range(0, len(hashes), _BLOCK):
            self._sketch.update_batch([hashes[start : start + _BLOCK]])
        return np.asarray(self._sketch.hashvalues).astype(np.uint32)

    def bands(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """A hash of each band of the signature, uint32 [BANDS]."""
        values = self.signature(hashes).reshape(BANDS, ROWS).astype(np.uint64)
        mixed = np.zeros(BANDS, np.uint64)
        for row in range(ROWS):
            mixed = (mixed ^ values[:, row]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
        return (mixed & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def digest(*texts: str) -> bytes:
    """128 bits of the texts, for what is exactly the same."""
    joined = "\x1d".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).digest()


def grouped(column: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """A number for each value that is there twice or more, counted from 0 in no order; -1 for the others."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    new = (
        np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(column) else np.empty(0, bool)
    )
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(column)))
    several = sizes > 1
    numbers = np.where(several, np.cumsum(several) - 1, -1).astype(np.int32)
    out = np.empty(len(column), np.int32)
    out[order] = np.repeat(numbers, sizes)
    return out


class Leaders:
    """Rows that stay, by the groups that they are in: lists in flat arrays, a few bytes an entry."""

    def __init__(self, groups: int) -> None:
        self._head = np.full(groups, -1, np.int32)
        self._rows = np.empty(1024, np.int32)
        self._next = np.empty(1024, np.int32)
        self._used = 0

    def add(self, row: int, groups: Iterable[int]) -> None:
        """Put a row into its groups."""
        for group in groups:
            if self._used == len(self._rows):
                self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
                self._next = np.concatenate([self._next, np.empty_like(self._next)])
            self._rows[self._used], self._next[self._used] = row, self._head[group]
            self._head[group] = self._used
            self._used += 1

    def of(self, group: int, most: int) -> Iterator[int]:
        """Rows of a group, the newest first, ``most`` at most."""
        place = int(self._head[group])
        while place >= 0 and most:
            yield int(self._rows[place])
            place, most = int(self._next[place]), most - 1
