"""Vectors in a temporary file, so that the memory of a process does not grow with their number."""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nfilter import FloatArray
from nfilter_robustft.index import normalise


class VectorFile:
    """Rows [n, d] of length 1, float32, that are appended in blocks and read by row: ``rows[[3, 1]]``."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._count = 0
        self.dimensions = 0

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def add(self, vectors: npt.ArrayLike) -> None:
        """Append vectors [m, d], scaled to length 1.

        Raises:
            ValueError: If one contains NaN or infinity.
        """
        rows = normalise(vectors)
        if not len(rows):
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="nfilter-vectors-")  # noqa: SIM115
            self.dimensions = rows.shape[1]
        self._file.write(rows.tobytes())
        self._count += len(rows)

    def __getitem__(self, rows: Any) -> FloatArray:
        """Return the rows with the given indices, float32 [m, d]; a slice is read at once."""
        if self._file is None:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        self._file.flush()
        size, number = 4 * self.dimensions, self._file.fileno()
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self._count)
            raw = os.pread(number, max(0, stop - start) * size, start * size)
        else:
            raw = b"".join(os.pread(number, size, int(row) * size) for row in np.asarray(rows))
        return np.frombuffer(raw, dtype=np.float32).reshape(-1, self.dimensions)
