"""Losses that were computed once: flat float32 files that every stage reads and a killed run goes on from.

One file a model (or model and adapter) holds the losses of response tokens, a sample after another; an index beside
it says whose they are. Both only grow. An index entry is written after its losses are on disk, so what it names is
whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nfilter.types import FloatArray, TokenSample

_ENTRY: Final = np.dtype([("key", "V16"), ("start", "<i8"), ("size", "<i8")])


class ScoreBooks:
    """The books of one run, by model; each is read from disk once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, ScoreBook] = {}

    def of(self, model: str) -> ScoreBook:
        """The book of the model with that fingerprint."""
        if model not in self._open:
            self._open[model] = ScoreBook(self._folder, model)
        return self._open[model]


class ScoreBook:
    """The losses under one model, by what was scored: token ids and response mask, never a sample's name."""

    def __init__(self, folder: Path, model: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(model.encode()).hexdigest()[:24]
        self._values = folder / f"{name}.f32"
        self._index = folder / f"{name}.index"
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0
        self._read()

    def find(self, samples: Sequence[TokenSample]) -> list[FloatArray | None]:
        """float32 [T] a sample, NaN where nothing is predicted; None for what was not scored yet."""
        keys = [_key(sample) for sample in samples]
        if not any(key in self._places for key in keys):
            return [None] * len(samples)
        values = (
            np.memmap(self._values, dtype="<f4", mode="r")
            if self._values.stat().st_size
            else np.zeros(0)
        )
        out: list[FloatArray | None] = []
        for sample, key in zip(samples, keys, strict=True):
            place = self._places.get(key)
            if place is None:
                out.append(None)
                continue
            losses = np.full(len(sample.ids), np.nan, dtype=np.float32)
            losses[sample.predicted] = values[place[0] : place[0] + place[1]]
            out.append(losses)
        return out

    def put(self, samples: Sequence[TokenSample], losses: Sequence[FloatArray]) -> None:
        """Keep the losses ([T] each) of samples that are not there yet; on disk when this returns."""
        entries = []
        parts: list[npt.NDArray[Any]] = []
        for sample, values in zip(samples, losses, strict=True):
            key = _key(sample)
            if key in self._places:
                continue
            part = np.asarray(values, dtype="<f4")[sample.predicted]
            entries.append((key, self._end, len(part)))
            parts.append(part)
            self._place(key, len(part))
        if not entries:
            return
        _append(self._values, np.concatenate(parts).tobytes())
        _append(self._index, np.array(entries, dtype=_ENTRY).tobytes())

    def _place(self, key: bytes, size: int) -> None:
        self._places[key] = (self._end, size)
        self._end += size

    def _read(self) -> None:
        """Take the index as far as it is whole and its losses are there; cut off what a kill left behind it."""
        raw = self._index.read_bytes() if self._index.is_file() else b""
        whole = len(raw) // _ENTRY.itemsize * _ENTRY.itemsize
        there = self._values.stat().st_size if self._values.is_file() else 0
        for entry in np.frombuffer(raw[:whole], dtype=_ENTRY):
            size = int(entry["size"])
            if (self._end + size) * 4 > there:
                whole = len(self._places) * _ENTRY.itemsize
                break
            self._place(entry["key"].tobytes(), size)
        if whole < len(raw):
            os.truncate(self._index, whole)
        if there > self._end * 4:
            os.truncate(self._values, self._end * 4)


def _key(sample: TokenSample) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(np.ascontiguousarray(sample.ids, dtype="<i8").tobytes())
    hasher.update(np.packbits(sample.response).tobytes())
    return hasher.digest()


def _append(file: Path, data: bytes) -> None:
    with file.open("ab") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
