"""Claims of several processes to calls of one stage, and the answers, in files of a folder that all of them share.

``claims`` has one record per event: a call is claimed, answered or released; the last record of a call is valid. It is appended to
under a lock on itself, so that a call is claimed once. ``answers-K`` is written by process K alone.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nfilter.api.calls import Completion
from nfilter.api.file_errors import write_error
from nfilter.store.failpoints import reach

CLAIMS: Final = "claims"
_RECORD: Final = np.dtype([("key", "V32"), ("rank", "<u4"), ("size", "<u4"), ("at", "<u8")])
_CLAIMED: Final = 0  # the size of an answer that is not there yet
_RELEASED: Final = 2**32 - 1  # nobody makes the call
_Positions = npt.NDArray[np.int64]
_Heads = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of calls.

    Attributes:
        answered: The answers of other processes, by key.
        free: The keys of calls that nobody makes.
        awaited: The ranks that make the other calls.
    """

    answered: Mapping[str, Completion]
    free: Collection[str]
    awaited: Collection[int]


class ClaimFolder:
    """The claims of process ``rank`` in a folder. Memory: 16 bytes per claimed call of all processes."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._last = _LastRecords()
        self._inode = 0

    def take(self, keys: Sequence[str]) -> tuple[list[str], Looked]:
        """Claim the calls that nobody makes; return their keys, and what became of the others.

        Raises:
            StoreError: if the folder cannot be written.
        """
        with self._locked(exclusive=True) as file:
            looked = self._look(file, keys, own_is_free=True)
            self._append(file, [(key, self._rank, _CLAIMED, 0) for key in looked.free])
        reach("calls.claimed")
        return list(looked.free), looked

    def look(self, keys: Sequence[str]) -> Looked:
        """Return what became of calls that other processes claimed."""
        with self._locked(exclusive=False) as file:
            return self._look(file, keys, own_is_free=False)

    def settle(
        self,
        answers: Mapping[str, Completion],
        released: Iterable[str] = (),
        world: int | None = None,
    ) -> None:
        """Publish answers to calls that this process claimed, and release claims.

        Of the calls in ``released``, those are released whose claim is this process's to settle (``unsettled``); without ``world``
        these are its own alone.

        Raises:
            StoreError: if the folder cannot be written.
        """
        free = list(released)
        rows = self._stored(answers) if answers else []
        if rows or free:
            with self._locked(exclusive=True) as file:
                places = self._last.find(_heads(free))
                records = [
                    self._record(file, int(at), key) for key, at in zip(free, places, strict=True)
                ]
                rows += [
                    (key, self._rank, _RELEASED, 0)
                    for key, row in zip(free, records, strict=True)
                    if row is not None
                    and row["size"] == _CLAIMED
                    and self._settles(row["rank"], world)
                ]
                self._append(file, rows)

    def unsettled(self, world: int) -> list[str]:
        """Return the keys of claims without an answer that this process is to settle: its own, and rank 0 those of ranks from ``world`` on.

        Raises:
            StoreError: if the folder cannot be written.
        """
        if not (self._folder / CLAIMS).is_file():
            return []
        with self._locked(exclusive=False) as file:
            rows = self._records(file, self._last.positions())
        own = self._settles(rows["rank"], world)
        return [_text(row["key"]) for row in rows[own & (rows["size"] == _CLAIMED)]]

    def _settles(self, ranks: Any, world: int | None) -> Any:
        """Whether this process settles the claims of ``ranks``, a number or an array."""
        own = ranks == self._rank
        return own if world is None or self._rank else own | (ranks >= world)

    @contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[int]:
        """Open and lock the file of claims, and read the records that are new.

        It is opened each time: only then a network file system shows what another machine has written.
        """
        import fcntl

        path = self._folder / CLAIMS
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
                self._read_new(file)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise write_error(path, error) from error

    def _read_new(self, file: int) -> None:
        status = os.fstat(file)
        # A record that a kill cut off is overwritten by the next one.
        count = status.st_size // _RECORD.itemsize
        if status.st_ino != self._inode or count < self._last.count:
            self._inode, self._last = status.st_ino, _LastRecords()
        if count > self._last.count:
            start = self._last.count * _RECORD.itemsize
            raw = os.pread(file, count * _RECORD.itemsize - start, start)
            self._last.add(np.frombuffer(raw, dtype=_RECORD))

    def _append(self, file: int, rows: Sequence[tuple[str, int, int, int]]) -> None:
        if rows:
            raw = np.array([(bytes.fromhex(key), *rest) for key, *rest in rows], dtype=_RECORD)
            _write(file, raw.tobytes(), self._last.count * _RECORD.itemsize)
            self._last.add(raw)

    def _records(self, file: int, positions: _Positions) -> npt.NDArray[Any]:
        raw = os.pread(file, self._last.count * _RECORD.itemsize, 0)
        return np.frombuffer(raw, dtype=_RECORD)[positions]

    def _look(self, file: int, keys: Sequence[str], *, own_is_free: bool) -> Looked:
        answered: dict[str, Completion] = {}
        free: list[str] = []
        awaited: set[int] = set()
        for key, position in zip(keys, self._last.find(_heads(keys)), strict=True):
            row = self._record(file, int(position), key)
            if row is None or row["size"] == _RELEASED:
                free.append(key)
            elif row["size"] != _CLAIMED:
                answer = self._answer(key, int(row["rank"]), int(row["at"]), int(row["size"]))
                if answer is None:
                    free.append(key)
                else:
                    answered[key] = answer
            elif int(row["rank"]) == self._rank and own_is_free:
                free.append(key)
            else:
                awaited.add(int(row["rank"]))
        return Looked(answered, free, awaited)

    def _record(self, file: int, position: int, key: str) -> Any:
        """Return the last record of a call; None if there is none."""
        if position < 0:
            return None
        raw = os.pread(file, _RECORD.itemsize, position * _RECORD.itemsize)
        row = np.frombuffer(raw, dtype=_RECORD)[0]
        return row if _text(row["key"]) == key else None

    def _stored(self, answers: Mapping[str, Completion]) -> list[tuple[str, int, int, int]]:
        """Append answers to the file of this process; return their records."""
        path = self._folder / f"answers-{self._rank}"
        rows = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("ab") as out:
                for key, answer in answers.items():
                    packed = json.dumps({"key": key, "answer": answer.packed()})
                    raw, at = zlib.compress(packed.encode()), out.tell()
                    out.write(raw)
                    rows.append((key, self._rank, len(raw), at))
        except OSError as error:
            raise write_error(path, error) from error
        return rows

    def _answer(self, key: str, rank: int, at: int, size: int) -> Completion | None:
        """Return a published answer; None if it is damaged or removed: its call is then made again."""
        try:
            with (self._folder / f"answers-{rank}").open("rb") as file:
                file.seek(at)
                value = json.loads(zlib.decompress(file.read(size)))
            if value["key"] != key:
                return None
            # The process that made the call has paid for it.
            return replace(Completion.unpacked(value["answer"]), cached=True, usd=0.0)
        except (OSError, zlib.error, ValueError, TypeError, KeyError):
            return None


@dataclass(slots=True)
class _LastRecords:
    """The position of the last record of each call, by the first eight bytes of its key: sorted arrays, merged as they grow."""

    count: int = 0
    _parts: list[tuple[_Heads, _Positions]] = field(default_factory=list)

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add the records that follow those before."""
        heads = np.frombuffer(rows["key"].tobytes(), dtype="<u8")[::4]
        positions = np.arange(self.count, self.count + len(rows), dtype=np.int64)
        self.count += len(rows)
        self._parts.append(_latest(heads, positions))
        while len(self._parts) > 1 and len(self._parts[-2][0]) <= 2 * len(self._parts[-1][0]):
            new, old = self._parts.pop(), self._parts.pop()
            merged = (np.concatenate(pair) for pair in zip(old, new, strict=True))
            self._parts.append(_latest(*merged))

    def find(self, heads: _Heads) -> _Positions:
        """Return the position of the last record of each; -1 without one."""
        found = np.full(len(heads), -1, dtype=np.int64)
        for known, positions in self._parts:  # newer ones come later
            at = np.minimum(np.searchsorted(known, heads), len(known) - 1)
            hit = known[at] == heads
            found[hit] = positions[at[hit]]
        return found

    def positions(self) -> _Positions:
        """Return the positions of all last records, in order."""
        if not self._parts:
            return np.zeros(0, dtype=np.int64)
        heads = np.concatenate([part[0] for part in self._parts])
        places = np.concatenate([part[1] for part in self._parts])
        return np.sort(_latest(heads, places)[1])


def _write(file: int, raw: bytes, at: int) -> None:
    """Write all bytes: a file system may take a part at a time."""
    while raw:
        written = os.pwrite(file, raw, at)
        raw, at = raw[written:], at + written


def _latest(heads: _Heads, positions: _Positions) -> tuple[_Heads, _Positions]:
    """Return the heads in order, each once, with the last of its positions."""
    order = np.lexsort((positions, heads))
    heads, positions = heads[order], positions[order]
    last = np.append(heads[1:] != heads[:-1], True) if len(heads) else np.zeros(0, dtype=bool)
    return heads[last], positions[last]


def _heads(keys: Sequence[str]) -> _Heads:
    return np.frombuffer(b"".join(bytes.fromhex(key)[:8] for key in keys), dtype="<u8")


def _text(key: Any) -> str:
    return bytes(key).hex()
