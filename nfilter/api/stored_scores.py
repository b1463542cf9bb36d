"""Scores of all samples in one temporary file, read several times in the order in which they were added."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from nfilter.api.types import FloatArray

IN_MEMORY = 2**26
"""Bytes that are held in memory, at most: 16 million scores. More are in a temporary file."""

_HEAD = struct.Struct("<II")  # bytes of the id, number of scores


def _spool() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, prefix="nfilter-scores-")


@dataclass(slots=True)
class StoredScores:
    """Samples with their scores: id and float32 [n] each. Iterating reads the scores again."""

    _file: IO[bytes] = field(default_factory=_spool)
    _samples: int = 0

    def __enter__(self) -> StoredScores:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, scores: FloatArray) -> None:
        """Add a sample."""
        key = name.encode("utf-8", "surrogatepass")
        raw = np.ascontiguousarray(scores, dtype="<f4").tobytes()
        self._file.write(_HEAD.pack(len(key), len(scores)) + key + raw)
        self._samples += 1

    def __iter__(self) -> Iterator[FloatArray]:
        """Yield the scores of each sample."""
        return (scores for _, scores in self.samples())

    def samples(self) -> Iterator[tuple[str, FloatArray]]:
        """Yield the id and the scores of each sample; no other iteration may run in between."""
        self._file.seek(0)
        for _ in range(self._samples):
            size, count = _HEAD.unpack(self._file.read(_HEAD.size))
            name = self._file.read(size).decode("utf-8", "surrogatepass")
            yield name, np.frombuffer(self._file.read(4 * count), dtype="<f4")
