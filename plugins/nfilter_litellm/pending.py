"""Batches that are out, on record in the run's directory, so that a run that was killed takes them up and pays once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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
        self._left: dict[str, Pending] | None = None
        self._read: set[str] = set()
        self._whole: dict[str, tuple[str, ...]] = {}

    def take_up(self, ids: Iterable[str]) -> list[Pending]:
        """What earlier runs left of these calls: each batch once, with those of its calls that are asked for.

        A call that was asked again is in several; the last of them counts.
        """
        if self._left is None:
            self._left = self._load()
            self._whole = {name: pending.ids for name, pending in self._left.items()}
        newest: dict[str, Pending] = {}
        for pending in self._left.values():
            for each in pending.ids:
                if each not in newest or pending.turn > newest[each].turn:
                    newest[each] = pending
        wanted: dict[str, list[str]] = {}
        for each in ids:
            if each in newest:
                wanted.setdefault(newest[each].name, []).append(each)
        found = []
        for name, some in wanted.items():
            pending = self._left[name]
            found.append(replace(pending, ids=tuple(some)))
            # The rest may be asked for later; what failed in it is asked anew.
            rest = tuple(each for each in pending.ids if each not in set(some))
            self._left[name] = replace(pending, ids=rest)
        return found

    def put(self, pending: Pending) -> None:
        """Have it on record, on disk, before anything else is done."""
        path = self._path(pending.name)
        if path is None:
            return
        folder = path.parent
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as out:
            whole = self._whole.get(pending.name, pending.ids)
            json.dump(asdict(replace(pending, ids=whole)), out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
        # A rename is on the disk only when its folder is.
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, pending: Pending) -> None:
        """All that it has to say was handed over."""
        self._read.add(pending.name)

    def forget(self, name: str) -> None:
        """It has no more to say."""
        path = self._path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget what was read: by now its answers are in the journal."""
        for name in self._read:
            self.forget(name)
        self._read.clear()

    def place(self, pending: Pending) -> str:
        """Where it is on record, for people."""
        return str(self._path(pending.name) or "memory")

    def _path(self, name: str) -> Path | None:
        return self._folder / f"{name}.json" if self._folder is not None else None

    def _load(self) -> dict[str, Pending]:
        found: dict[str, Pending] = {}
        if self._folder is None or not self._folder.is_dir():
            return found
        for path in sorted(self._folder.glob("*.json")):
            if time.time() - path.stat().st_mtime > _OLD:
                path.unlink(missing_ok=True)
                continue
            value = json.loads(path.read_text(encoding="utf-8"))
            found[path.stem] = Pending(
                path.stem, value["file"], value["batch"], value["turn"], tuple(value["ids"])
            )
        return found
