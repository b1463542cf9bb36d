"""Losses and other token scores that were computed once: flat float32 files that every stage reads and a killed run goes on from.

One file per model (or model and adapter, or model and kind of score) has the numbers of response tokens, one sample after
another; an index beside it names the samples. Both only grow. An index entry is written after its losses are on disk, so
what it names is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nfilter.api.types import BoolArray, FloatArray, TokenSample
from nfilter.store.files import publishing_file, refuse_folder, unwritten

_ENTRY: Final = np.dtype(
    [("key", "V16"), ("start", "<i8"), ("size", "<i8"), ("losses", "V8"), ("seal", "V8")]
)
_OWN: Final = _ENTRY.itemsize - 8  # bytes of an entry that its seal is of
Complain = Callable[[str], None]
Positions = Callable[[TokenSample], BoolArray]


def predicted(sample: TokenSample) -> BoolArray:
    """Return the positions ([T]) that have a loss."""
    return sample.predicted


def response(sample: TokenSample) -> BoolArray:
    """Return the positions ([T]) of the response."""
    return sample.response


class ScoreBooks:
    """The books of one run, by model; each is read from disk once."""

    def __init__(self, folder: Path, complain: Complain | None = None) -> None:
        """``complain`` is told of what is not as it was written."""
        self._folder = folder
        self._complain = complain
        self._open: dict[str, ScoreBook] = {}

    def of(self, model: str, positions: Positions = predicted) -> ScoreBook:
        """Return the book of the model with that fingerprint; ``positions`` are those that have a number."""
        if model not in self._open:
            self._open[model] = ScoreBook(self._folder, model, self._complain, positions)
        return self._open[model]


class ScoreBook:
    """The losses under one model, by what was scored: token ids and response mask, never a sample's name."""

    def __init__(
        self,
        folder: Path,
        model: str,
        complain: Complain | None = None,
        positions: Positions = predicted,
    ) -> None:
        self._positions = positions
        name = hashlib.sha256(model.encode()).hexdigest()[:24]
        self._values = folder / f"{name}.f32"
        self._index = folder / f"{name}.index"
        self._complain = complain or (lambda _: None)
        self._places: dict[bytes, tuple[int, int, bytes]] = {}
        self._checked: set[bytes] = set()
        self._end = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(folder, error) from error
        for file in (self._values, self._index):
            refuse_folder(file)
        self._read()

    def lacking(self, samples: Iterable[TokenSample]) -> list[TokenSample]:
        """Return the samples that are not in the book; of those with equal ids and response masks, the last."""
        keyed = {_key(sample): sample for sample in samples}
        return [sample for key, sample in keyed.items() if key not in self._places]

    def find(self, samples: Sequence[TokenSample]) -> list[FloatArray | None]:
        """float32 [T] a sample, NaN where nothing is predicted; None for what was not scored yet."""
        keys = [_key(sample) for sample in samples]
        if not any(key in self._places for key in keys):
            return [None] * len(samples)
        values = (
            np.memmap(self._values, dtype="<f4", mode="r")
            if self._values.stat().st_size
            else np.zeros(0, dtype="<f4")
        )
        out: list[FloatArray | None] = []
        for sample, key in zip(samples, keys, strict=True):
            kept = self._kept(key, values)
            if kept is None:
                out.append(None)
                continue
            losses = np.full(len(sample.ids), np.nan, dtype=np.float32)
            losses[self._positions(sample)] = kept
            out.append(losses)
        return out

    def _kept(self, key: bytes, values: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """The losses under a key; None where there are none, or others than were written."""
        place = self._places.get(key)
        if place is None:
            return None
        start, size, digest = place
        losses = values[start : start + size]
        if key not in self._checked:
            if _digest(key, losses.tobytes()) != digest:
                del self._places[key]
                self._complain(
                    f"{self._values} holds other losses than were written; what is damaged is computed again"
                )
                return None
            self._checked.add(key)
        return losses

    def put(self, samples: Sequence[TokenSample], losses: Sequence[FloatArray]) -> None:
        """Keep the losses ([T] each) of samples that are not there yet; on disk when this returns."""
        entries = []
        parts: list[npt.NDArray[Any]] = []
        for sample, values in zip(samples, losses, strict=True):
            key = _key(sample)
            if key in self._places:
                continue
            part = np.asarray(values, dtype="<f4")[self._positions(sample)]
            place = (self._end, len(part), _digest(key, part.tobytes()))
            entries.append(_entry(key, *place))
            parts.append(part)
            self._places[key] = place
            self._checked.add(key)
            self._end += len(part)
        if not entries:
            return
        _append(self._values, np.concatenate(parts).tobytes())
        _append(self._index, b"".join(entries))

    def _read(self) -> None:
        """Take the entries that are whole and whose losses are there; cut off what a kill left behind them."""
        raw = self._index.read_bytes() if self._index.is_file() else b""
        there = self._values.stat().st_size if self._values.is_file() else 0
        taken = []
        damaged = False
        for entry in np.frombuffer(
            raw[: len(raw) // _ENTRY.itemsize * _ENTRY.itemsize], dtype=_ENTRY
        ):
            written = entry.tobytes()
            key, start, size = entry["key"].tobytes(), int(entry["start"]), int(entry["size"])
            if written != _entry(key, start, size, entry["losses"].tobytes()):
                damaged = True
            elif (start + size) * 4 <= there:
                taken.append(written)
                # Of two entries for one text the later stands in for losses that were damaged.
                self._places[key] = (start, size, entry["losses"].tobytes())
                self._end = max(self._end, start + size)
        if damaged:
            self._complain(
                f"{self._index} holds other entries than were written; what is damaged is computed again"
            )
        if len(raw) != len(taken) * _ENTRY.itemsize:
            with publishing_file(self._index) as part:
                part.write_bytes(b"".join(taken))
        if there > self._end * 4:
            os.truncate(self._values, self._end * 4)


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(key + data, digest_size=8).digest()


def _entry(key: bytes, start: int, size: int, losses: bytes) -> bytes:
    own = np.array([(key, start, size, losses, b"\0" * 8)], dtype=_ENTRY).tobytes()[:_OWN]
    return own + _digest(key, own)


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
