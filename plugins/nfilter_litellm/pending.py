"""Batches that are out, on record in the run's directory, so that a run that was killed takes them up and pays once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfilter import StoreError, read_sealed, write_sealed

_VERSION = 2
_UNSEALED = 1
_FIELDS = ("made", "file", "batch", "turn", "ids", "read")
_OLD = 30 * 86400.0  # seconds for which servers keep the files of a batch


@dataclass(frozen=True, slots=True)
class Pending:
    """One batch: the calls in it, by the ids that its lines have, and its file at the server.

    ``batch`` is None from before it was asked for until its name is known. ``turn`` counts how often its calls were asked.
    ``name`` tells it from all others, of other servers too.
    """

    name: str
    file: str
    batch: str | None
    turn: int
    ids: tuple[str, ...]


class Ledger:
    """The batches that are out, a file each. Without a folder they are kept in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._loaded = False
        self._whole: dict[str, Pending] = {}  # with all calls, whoever asks for them
        self._made: dict[str, float] = {}
        self._unread: dict[str, set[str]] = {}
        self._owner: dict[str, str] = {}  # of calls that nobody has asked for yet
        self._read: set[str] = set()

    def take_up(self, ids: Iterable[str]) -> list[Pending]:
        """What earlier runs left of these calls: each batch once, with those of its calls that are asked for.

        A call that was asked again is in several; the last of them counts.

        Raises:
            StoreError: when a record cannot be read.
        """
        if not self._loaded:
            self._load()
            self._loaded = True
        wanted: dict[str, list[str]] = {}
        for each in ids:
            name = self._owner.pop(each, None)
            if name is not None:
                wanted.setdefault(name, []).append(each)
        return [replace(self._whole[name], ids=tuple(some)) for name, some in wanted.items()]

    def put(self, pending: Pending) -> None:
        """Have it on record, on disk, before anything else is done."""
        known = self._whole.get(pending.name)
        if known is None:
            self._unread[pending.name] = set(pending.ids)
            self._made[pending.name] = time.time()
            self._read.discard(pending.name)
        self._whole[pending.name] = pending if known is None else replace(known, batch=pending.batch)  # fmt: skip
        self._write(pending.name)

    def of(self, pending: Pending) -> frozenset[str]:
        """All calls of its batch, those that were read before too."""
        return frozenset(self._whole.get(pending.name, pending).ids)

    def read(self, pending: Pending) -> None:
        """All that it has to say of its calls was handed over."""
        self._read.add(pending.name)
        unread = self._unread.get(pending.name, set())
        unread.difference_update(pending.ids)
        if not unread:
            self._whole.pop(pending.name, None)

    def close(self) -> None:
        """Forget what was read: by now its answers are in the journal. A batch with calls that were not stays on record."""
        for name in self._read:
            path = self._path(name)
            if not self._unread.get(name):
                self._forget(name)
            elif path is not None and path.exists():
                self._write(name)
        self._read.clear()

    def place(self, pending: Pending) -> str:
        """Where it is on record, for people."""
        return str(self._path(pending.name) or "memory")

    def _path(self, name: str) -> Path | None:
        return self._folder / f"{name}.json" if self._folder is not None else None

    def _forget(self, name: str) -> None:
        for known in (self._whole, self._made, self._unread):
            known.pop(name, None)
        path = self._path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def _write(self, name: str) -> None:
        path = self._path(name)
        if path is None:
            return
        pending, unread = self._whole[name], self._unread[name]
        read = [each for each in pending.ids if each not in unread]
        record = {
            "version": _VERSION, "made": self._made[name], "file": pending.file, "batch": pending.batch,
            "turn": pending.turn, "ids": pending.ids, "read": read,
        }  # fmt: skip
        write_sealed(path, record)

    def _load(self) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.json")):
            self._take(path)
        last: dict[str, str] = {}
        for name in sorted(self._whole, key=lambda each: self._made[each]):
            last.update(dict.fromkeys(self._whole[name].ids, name))
        for name in list(self._whole):
            self._unread[name] = {each for each in self._unread[name] if last[each] == name}
            self._owner.update(dict.fromkeys(self._unread[name], name))
            if not self._unread[name]:
                self._forget(name)

    def _take(self, path: Path) -> None:
        """Know what a file has on record, but for a batch that no server has any more."""
        known = _known(path)
        fields: list[Any] = [known.get(key) for key in _FIELDS]
        made, file, batch, turn, ids, read = fields
        said = isinstance(made, float) and isinstance(file, str) and isinstance(turn, int)
        if not (said and isinstance(batch, str | None) and _words(ids) and _words(read)):
            raise StoreError(
                f"{path} is no record of a batch that this version of nfilter can read; remove it to ask its calls anew (what "
                "the server did for it is billed all the same)"
            )
        name = path.stem
        if time.time() - made > _OLD:
            self._forget(name)
            return
        self._whole[name] = Pending(name, file, batch, turn, tuple(ids))
        self._made[name] = made
        self._unread[name] = set(ids).difference(read)


def _known(path: Path) -> dict[str, Any]:
    """What a file holds that is as it was written; of an earlier version, which sealed nothing, whatever it holds."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("version") == _UNSEALED:
            return value
        sealed = read_sealed(path, path.parent.parent)
    except (ValueError, RecursionError, StoreError):
        return {}
    return sealed if sealed.get("version") == _VERSION else {}


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
