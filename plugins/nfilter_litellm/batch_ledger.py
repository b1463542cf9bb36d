"""Records of submitted batches in the run's directory, so a killed run resumes them and pays once."""

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
_MAX_AGE = 30 * 86400.0  # seconds that servers keep the files of a batch


@dataclass(frozen=True, slots=True)
class Pending:
    """One batch: the line ids of its calls, and its file's id on the server.

    ``batch`` is None until the server's id is known. ``turn`` counts the submissions of its calls. ``name`` is unique,
    also across servers.
    """

    name: str
    file: str
    batch: str | None
    turn: int
    ids: tuple[str, ...]


class Ledger:
    """Submitted batches, one file each; without a folder they are kept in memory only."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._loaded = False
        self._complete: dict[str, Pending] = {}  # with all their calls
        self._made: dict[str, float] = {}
        self._unread: dict[str, set[str]] = {}
        self._batch_of: dict[str, str] = {}  # by id, of calls not yet requested in this run
        self._read: set[str] = set()

    def resume(self, ids: Iterable[str]) -> list[Pending]:
        """Return the unfinished batches of earlier runs that contain any of ``ids``, each restricted to those ids.

        A repeated call is in several batches; the last one counts.

        Raises:
            StoreError: a record cannot be read.
        """
        if not self._loaded:
            self._load()
            self._loaded = True
        requested: dict[str, list[str]] = {}
        for each in ids:
            name = self._batch_of.pop(each, None)
            if name is not None:
                requested.setdefault(name, []).append(each)
        return [replace(self._complete[name], ids=tuple(own)) for name, own in requested.items()]

    def record(self, pending: Pending) -> None:
        """Write the batch to disk."""
        known = self._complete.get(pending.name)
        if known is None:
            self._unread[pending.name] = set(pending.ids)
            # The last batch of a call counts, and the clock may have gone back since the one before.
            self._made[pending.name] = max(
                time.time(), max(self._made.values(), default=0.0) + 1e-3
            )
            self._read.discard(pending.name)
        self._complete[pending.name] = pending if known is None else replace(known, batch=pending.batch)  # fmt: skip
        self._write(pending.name)

    def all_ids(self, pending: Pending) -> frozenset[str]:
        """Return the ids of all calls of the batch, including those already read."""
        return frozenset(self._complete.get(pending.name, pending).ids)

    def mark_read(self, pending: Pending) -> None:
        """Record that the answers to the calls of ``pending`` were delivered."""
        self._read.add(pending.name)
        unread = self._unread.get(pending.name, set())
        unread.difference_update(pending.ids)
        if not unread:
            self._complete.pop(pending.name, None)

    def close(self) -> None:
        """Remove the records of batches that are read completely: their answers are in the journal."""
        for name in self._read:
            path = self._path(name)
            if not self._unread.get(name):
                self._forget(name)
            elif path is not None and path.exists():
                self._write(name)
        self._read.clear()

    def location(self, pending: Pending) -> str:
        """Return the path of the record, for messages."""
        return str(self._path(pending.name) or "memory")

    def _path(self, name: str) -> Path | None:
        return self._folder / f"{name}.json" if self._folder is not None else None

    def _forget(self, name: str) -> None:
        for table in (self._complete, self._made, self._unread):
            table.pop(name, None)
        path = self._path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def _write(self, name: str) -> None:
        path = self._path(name)
        if path is None:
            return
        pending, unread = self._complete[name], self._unread[name]
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
            self._load_record(path)
        last: dict[str, str] = {}
        for name in sorted(self._complete, key=lambda each: self._made[each]):
            last.update(dict.fromkeys(self._complete[name].ids, name))
        for name in list(self._complete):
            self._unread[name] = {each for each in self._unread[name] if last[each] == name}
            self._batch_of.update(dict.fromkeys(self._unread[name], name))
            if not self._unread[name]:
                self._forget(name)

    def _load_record(self, path: Path) -> None:
        """Load one record, or delete it if servers no longer have its batch."""
        record = _read_record(path)
        fields: list[Any] = [record.get(key) for key in _FIELDS]
        made, file, batch, turn, ids, read = fields
        valid = isinstance(made, float) and isinstance(file, str) and isinstance(turn, int)
        if not (
            valid and isinstance(batch, str | None) and _is_text_list(ids) and _is_text_list(read)
        ):
            raise StoreError(
                f"{path} is not a batch record that this version of nfilter can read; remove it to repeat its calls (the "
                "server still bills the old ones)"
            )
        name = path.stem
        if time.time() - made > _MAX_AGE:
            self._forget(name)
            return
        self._complete[name] = Pending(name, file, batch, turn, tuple(ids))
        self._made[name] = made
        self._unread[name] = set(ids).difference(read)


def _read_record(path: Path) -> dict[str, Any]:
    """Return the contents of an intact record, or of an unsealed record of the earlier version; else an empty dict."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("version") == _UNSEALED:
            return value
        sealed = read_sealed(path, path.parent.parent)
    except (ValueError, RecursionError, StoreError):
        return {}
    return sealed if sealed.get("version") == _VERSION else {}


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
