"""Banded MinHash signatures, packed: find near duplicates without comparing all pairs."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

BANDS, ROWS = 25, 5
"""Rows of Jaccard similarity s share a band with probability 1 - (1 - s^5)^25: .990 at .7, .72 at .55, .06 at .3."""

_LONG = 2**14
_BLOCK = 2**10  # arrays of a block fit in a core's cache


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
        if len(hashes) > _LONG:
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
