"""The runs of a folder by key, and their indexes, which are built in the background at the first request."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nfilter import NfilterError, RunReader, find_runs, publishing_folder
from nfilter_view.building import build
from nfilter_view.index import Index

VERSION: Final = "3"
FOLDER: Final = ".view"
_STAMP: Final = "mark"
_FRESH: Final = 2.0
"""Seconds for which a run is not looked at again."""


@dataclass
class Shelf:
    """One run: its reader, and its index as far as it is made. ``error`` says why it could not be made."""

    key: str
    path: Path
    reader: RunReader
    index: Index | None = None
    mark: str | None = None
    done: int = 0
    error: str | None = None
    working: bool = False
    looked: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Library:
    """The runs at and below a folder."""

    def __init__(self, root: Path) -> None:
        """Raises StoreError when there is no run."""
        self.root = root
        self._shelves: dict[str, Shelf] = {}
        self._lock = threading.Lock()
        self._looked = 0.0
        self._look()

    def _look(self) -> None:
        paths = find_runs(self.root)
        known = {shelf.path: shelf for shelf in self._shelves.values()}
        self._shelves = {
            shelf.key: shelf
            for shelf in (
                known.get(path) or Shelf(key_of(path), path, RunReader(path)) for path in paths
            )
        }
        self._looked = time.monotonic()

    def shelves(self) -> list[Shelf]:
        """Return all runs, in the order of their folders."""
        with self._lock:
            if time.monotonic() - self._looked > _FRESH:
                self._look()
            return list(self._shelves.values())

    def shelf(self, key: str) -> Shelf | None:
        """Return the run with a key; None where there is none. A key is never part of a path."""
        found = self._shelves.get(key)
        if found is None:
            self.shelves()
            found = self._shelves.get(key)
        return found

    def index(self, shelf: Shelf) -> Index | None:
        """Return the index of a run; None while it is being made. Raises NfilterError where that failed."""
        with shelf.lock:
            if shelf.working:
                return None
            if shelf.index is None or time.monotonic() - shelf.looked > _FRESH:
                shelf.looked = time.monotonic()
                mark = f"{VERSION} {shelf.reader.mark()}"
                if mark != shelf.mark:
                    self._renew(shelf, mark)
            if shelf.error is not None:
                raise NfilterError(shelf.error)
            return None if shelf.working else shelf.index

    def _renew(self, shelf: Shelf, mark: str) -> None:
        """Open the index on disk if it has this mark, else start to build it."""
        shelf.error, shelf.mark = None, mark
        if shelf.index is not None:
            shelf.index.close()
            shelf.index = None
        for folder in _places(shelf.path):
            stamp = folder / _STAMP
            if stamp.is_file() and stamp.read_text(encoding="utf-8") == mark:
                shelf.index = _opened(folder, shelf)
                return
        shelf.working, shelf.done = True, 0
        threading.Thread(target=self._make, args=(shelf, mark), daemon=True).start()

    def _make(self, shelf: Shelf, mark: str) -> None:
        def tell(done: int) -> None:
            shelf.done = done

        index, error = None, None
        try:
            folder = _writable(shelf.path)
            with publishing_folder(folder) as part:
                build(shelf.reader, part, {"run": str(shelf.path)}, tell)
                with closing(_opened(part, shelf)) as made:
                    made.write_summary()
                (part / _STAMP).write_text(mark, encoding="utf-8")
            index = _opened(folder, shelf)
        except Exception as fault:  # noqa: BLE001 - a thread has nobody to raise to; the page tells it
            error = f"{shelf.path}: the index could not be made: {fault}"
        with shelf.lock:
            shelf.index, shelf.error, shelf.working = index, error, False


def _opened(folder: Path, shelf: Shelf) -> Index:
    return Index(folder, [stage.label for stage in shelf.reader.stages()])


def key_of(path: Path) -> str:
    """Return the key of a run; it does not contain the path."""
    return hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def folder_of(shelf: Shelf) -> Path:
    """Create and return the folder of a run's index."""
    for folder in _places(shelf.path):
        stamp = folder / _STAMP
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == shelf.mark:
            return folder
    raise NfilterError(f"{shelf.path}: the index is gone; load the page again")


def _places(run: Path) -> list[Path]:
    """Where the index of a run may be: in its folder, or in the user's cache where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return [run / FOLDER, Path(base) / "nfilter" / "view" / key_of(run)]


def _writable(run: Path) -> Path:
    inside, outside = _places(run)
    return inside if os.access(run, os.W_OK) else outside
