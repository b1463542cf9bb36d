"""Sort samples by a value and their id, with a bounded number of them in memory."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

IN_MEMORY = 2**17
"""Samples that are sorted in memory, at most. More are sorted in runs of this number, which are merged from a temporary file."""

_BLOCK = 2**10  # samples of a run that are read together
_HEAD = struct.Struct("<dI")  # value, bytes of the id

Pair = tuple[float, str]


@dataclass(slots=True)
class SortedSamples:
    """Pairs of a value and an id, in ascending order. Ids with equal values are ordered as texts."""

    _rows: list[Pair] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _runs: list[list[tuple[int, int]]] = field(default_factory=list)  # offset and bytes of blocks

    def __enter__(self) -> SortedSamples:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def add(self, value: float, name: str) -> None:
        """Add a sample; ``value`` is not NaN."""
        self._rows.append((value, name))
        if len(self._rows) >= IN_MEMORY:
            self._write_run()

    def clear(self) -> None:
        """Remove all samples, and the file."""
        self._rows, self._runs = [], []
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[Pair]:
        """Yield all samples in order; none may be added in between."""
        self._rows.sort()
        if self._file is None:
            return iter(self._rows)
        file = self._file
        return heapq.merge(*(_read(file, blocks) for blocks in self._runs), self._rows)

    def _write_run(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="nfilter-ranking-")  # noqa: SIM115
        self._rows.sort()
        blocks = []
        for start in range(0, len(self._rows), _BLOCK):
            raw = _packed(self._rows[start : start + _BLOCK])
            blocks.append((self._file.tell(), len(raw)))
            self._file.write(raw)
        self._runs.append(blocks)
        self._rows = []


def _packed(rows: Sequence[Pair]) -> bytes:
    keys = [name.encode("utf-8", "surrogatepass") for _, name in rows]
    return b"".join(
        _HEAD.pack(value, len(key)) + key for (value, _), key in zip(rows, keys, strict=True)
    )


def _read(file: IO[bytes], blocks: Sequence[tuple[int, int]]) -> Iterator[Pair]:
    for offset, size in blocks:
        file.seek(offset)
        raw, at = file.read(size), 0
        while at < size:
            value, length = _HEAD.unpack_from(raw, at)
            at += _HEAD.size + length
            yield value, raw[at - length : at].decode("utf-8", "surrogatepass")
