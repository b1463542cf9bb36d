"""Cache of losses and other token scores: flat float32 files that all stages and resumed runs read.

One file per model (or model and adapter, or model and kind of score) has the values of response tokens, sample after
sample; an index file lists the samples. Both only grow. An index entry is written after its values are on disk, so an entry
always refers to complete values.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nfilter.api.file_errors import write_error
from nfilter.api.types import BoolArray, FloatArray, TokenSample
from nfilter.store.files import publishing_file, refuse_folder

_ENTRY: Final = np.dtype(
    [("key", "V16"), ("start", "<i8"), ("size", "<i8"), ("losses", "V8"), ("seal", "V8")]
)
_OWN: Final = _ENTRY.itemsize - 8  # bytes of an entry that its seal covers
Complain = Callable[[str], None]
Positions = Callable[[TokenSample], BoolArray]


def predicted(sample: TokenSample) -> BoolArray:
    """Return the positions ([T]) that have a loss."""
    return sample.predicted


def response(sample: TokenSample) -> BoolArray:
    """Return the positions ([T]) of the response."""
    return sample.response


class ScoreCaches:
    """The score caches of one run, by model; each is read from disk once."""

    def __init__(
        self, folder: Path, complain: Complain | None = None, lender: Path | None = None
    ) -> None:
        """``complain`` receives a message for each damaged file. ``lender`` is a folder of another process that is only read."""
        self._folder = folder
        self._complain = complain
        self._lender = lender
        self._open: dict[str, ScoreCache] = {}

    def of(self, model: str, positions: Positions = predicted) -> ScoreCache:
        """Return the cache of the model with this fingerprint; ``positions`` selects the tokens that have a value."""
        if model not in self._open:
            name = _file_name(model)
            lender = (
                ScoreCache(self._lender, name, None, positions, writes=False)
                if self._lender is not None
                else None
            )
            self._open[model] = ScoreCache(
                self._folder, name, self._complain, positions, lender=lender
            )
        return self._open[model]

    def absorb(self, folder: Path) -> None:
        """Take over the scores in the folder of another process that no longer writes it."""
        for index in sorted(folder.glob("*.index")):
            ScoreCache(self._folder, index.stem, self._complain).absorb(
                ScoreCache(folder, index.stem, writes=False)
            )
        # Open caches do not have the new entries.
        self._open.clear()


class ScoreCache:
    """The token scores of one model. The key is a hash of token ids and response mask, not the sample's id."""

    def __init__(
        self,
        folder: Path,
        name: str,
        complain: Complain | None = None,
        positions: Positions = predicted,
        *,
        writes: bool = True,
        lender: ScoreCache | None = None,
    ) -> None:
        """``name`` is the name of its two files. If ``writes`` is False, they are only read; ``lender`` is asked for what is not here."""
        self._positions = positions
        self._writes = writes
        self._lender = lender
        self._values = folder / f"{name}.f32"
        self._index = folder / f"{name}.index"
        self._complain = complain or (lambda _: None)
        self._entries: dict[bytes, tuple[int, int, bytes]] = {}
        self._checked: set[bytes] = set()
        self._end = 0
        if writes:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(folder, error) from error
            for file in (self._values, self._index):
                refuse_folder(file)
        self._read()

    def lacking(self, samples: Iterable[TokenSample]) -> list[TokenSample]:
        """Return the samples that are not in the cache; of samples with equal ids and response masks, only the last."""
        keyed = {_key(sample): sample for sample in samples}
        own = [sample for key, sample in keyed.items() if key not in self._entries]
        return own if self._lender is None else self._lender.lacking(own)

    def find(self, samples: Sequence[TokenSample]) -> list[FloatArray | None]:
        """Return one float32 array [T] per sample, NaN at tokens without a value; None for samples not in the cache."""
        if self._lender is not None:
            pairs = zip(self._find(samples), self._lender.find(samples), strict=True)
            return [lent if own is None else own for own, lent in pairs]
        return self._find(samples)

    def _find(self, samples: Sequence[TokenSample]) -> list[FloatArray | None]:
        keys = [_key(sample) for sample in samples]
        if not any(key in self._entries for key in keys):
            return [None] * len(samples)
        values = (
            np.memmap(self._values, dtype="<f4", mode="r")
            if self._values.stat().st_size
            else np.zeros(0, dtype="<f4")
        )
        out: list[FloatArray | None] = []
        for sample, key in zip(samples, keys, strict=True):
            cached = self._cached(key, values)
            if cached is None:
                out.append(None)
                continue
            losses = np.full(len(sample.ids), np.nan, dtype=np.float32)
            losses[self._positions(sample)] = cached
            out.append(losses)
        return out

    def _cached(self, key: bytes, values: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """The values of a key; None if there are none or they are damaged."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        start, size, digest = entry
        losses = values[start : start + size]
        if key not in self._checked:
            if _digest(key, losses.tobytes()) != digest:
                del self._entries[key]
                self._complain(f"{self._values} is damaged; its damaged losses are computed again")
                return None
            self._checked.add(key)
        return losses

    def put(self, samples: Sequence[TokenSample], losses: Sequence[FloatArray]) -> None:
        """Store the losses ([T] each) of samples that are not in the cache; they are on disk when this returns."""
        entries = []
        parts: list[npt.NDArray[Any]] = []
        for sample, values in zip(samples, losses, strict=True):
            key = _key(sample)
            if key in self._entries:
                continue
            part = np.asarray(values, dtype="<f4")[self._positions(sample)]
            entry = (self._end, len(part), _digest(key, part.tobytes()))
            entries.append(_entry(key, *entry))
            parts.append(part)
            self._entries[key] = entry
            self._checked.add(key)
            self._end += len(part)
        if not entries:
            return
        _append(self._values, np.concatenate(parts).tobytes())
        _append(self._index, b"".join(entries))

    def absorb(self, other: ScoreCache) -> None:
        """Store the undamaged values of ``other`` that are not in this cache."""
        if not other._entries:
            return
        values = np.memmap(other._values, dtype="<f4", mode="r") if other._end else np.zeros(0)
        entries: list[bytes] = []
        parts: list[npt.NDArray[Any]] = []
        for key in list(other._entries):
            if key in self._entries or (part := other._cached(key, values)) is None:
                continue
            entry = (self._end, len(part), other._entries[key][2])
            entries.append(_entry(key, *entry))
            parts.append(part)
            self._entries[key] = entry
            self._end += len(part)
        if entries:
            _append(self._values, np.concatenate(parts).tobytes())
            _append(self._index, b"".join(entries))

    def _read(self) -> None:
        """Load the valid entries whose values exist; truncate what a kill left after them."""
        raw = self._index.read_bytes() if self._index.is_file() else b""
        available = self._values.stat().st_size if self._values.is_file() else 0
        taken = []
        damaged = False
        for entry in np.frombuffer(
            raw[: len(raw) // _ENTRY.itemsize * _ENTRY.itemsize], dtype=_ENTRY
        ):
            written = entry.tobytes()
            key, start, size = entry["key"].tobytes(), int(entry["start"]), int(entry["size"])
            if written != _entry(key, start, size, entry["losses"].tobytes()):
                damaged = True
            elif (start + size) * 4 <= available:
                taken.append(written)
                # Of two entries with one key the later replaces damaged losses.
                self._entries[key] = (start, size, entry["losses"].tobytes())
                self._end = max(self._end, start + size)
        if not self._writes:
            return
        if damaged:
            self._complain(
                f"{self._index} is damaged; the losses of its damaged entries are computed again"
            )
        if len(raw) != len(taken) * _ENTRY.itemsize:
            with publishing_file(self._index) as part:
                part.write_bytes(b"".join(taken))
        if available > self._end * 4:
            os.truncate(self._values, self._end * 4)


def _file_name(model: str) -> str:
    """Return the name, without ending, of the files of the model with this fingerprint."""
    return hashlib.sha256(model.encode()).hexdigest()[:24]


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(key + data, digest_size=8).digest()


def _entry(key: bytes, start: int, size: int, losses: bytes) -> bytes:
    """The bytes of an index entry with its seal; ``losses`` is the digest of the values."""
    own = np.array([(key, start, size, losses, b"\0" * 8)], dtype=_ENTRY).tobytes()[:_OWN]
    return own + _digest(key, own)


def _key(sample: TokenSample) -> bytes:
    """A 16-byte hash of token ids and response mask."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(np.ascontiguousarray(sample.ids, dtype="<i8").tobytes())
    hasher.update(np.packbits(sample.response).tobytes())
    return hasher.digest()


def _append(file: Path, data: bytes) -> None:
    with file.open("ab") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
