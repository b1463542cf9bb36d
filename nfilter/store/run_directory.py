"""The run directory: one run on disk, held by one process at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from nfilter.api.errors import StoreError
from nfilter.api.file_errors import accessing
from nfilter.api.types import Sample, TokenSample
from nfilter.store.artefacts import Artefact, discard
from nfilter.store.files import PART, remove
from nfilter.store.locks import LOCK, holder_of, locked, locked_soon
from nfilter.store.samples import open_samples
from nfilter.store.token_chunks import open_tokens

ENCODE: Final = "encode"
"""The step that encodes samples as tokens. No stage can have this name, because stage names contain a dot."""
SOURCE: Final = "source"
REVIEWED: Final = "review"
"""The source with the decisions of people about its rows; it follows the source under the same number."""


def stage_folder(number: int, name: str) -> str:
    """Return the name of a stage's folder, which identifies the stage in its run."""
    return f"{number:02d}-{name}"


def set_aside(path: Path) -> Path | None:
    """Rename the folder of a run or a group, so that the next run starts from scratch.

    Returns:
        The new path; None if ``path`` does not exist.

    Raises:
        StoreError: if the folder is not of a run, or a process is running in it.
    """
    with accessing(path):
        return _set_aside(path)


def _set_aside(path: Path) -> Path | None:
    if not path.exists():
        return None
    children = [child for child in path.glob("seed-*") if child.is_dir()]
    if (
        not any((path / name).exists() for name in ("00-source", "journal.db", ".lock"))
        and not children
    ):
        raise StoreError(
            f"{path}: not the folder of a run, so it is not moved; choose another --out"
        )
    for rank in path.glob("ranks/*/lock"):
        with rank.open("a+", encoding="utf-8") as lock:
            if not locked(lock):
                raise StoreError(
                    f"{path}: rank {rank.parent.name} of a run is running in it; stop it, or choose another --out"
                )
    with ExitStack() as held:
        for folder in (path, *children):
            held.enter_context(RunDirectory(folder).held())
        # Chosen under the lock: another process may have moved a folder aside meanwhile.
        names = (path.with_name(f"{path.name}.old-{number}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        path.rename(aside)
    return aside


def refuse_other_kind(path: Path, *, seeds: bool) -> None:
    """Refuse a directory that holds the other kind, a run of one seed or a group of ``seeds``: they would overwrite each other.

    Raises:
        StoreError: if ``path`` holds the other kind.
    """
    with accessing(path):
        other = (path / "00-source").exists() if seeds else any(path.glob("seed-*/00-source"))
    if other:
        kinds = ("a run of one seed", "runs with --seeds")
        present, wanted = kinds if seeds else kinds[::-1]
        raise StoreError(
            f"{path}: holds {present}, and {wanted} would overwrite its figures; choose another --out, or add --fresh, which moves {path} away"
        )


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder and in the folders in it."""
    for pattern in (f".*{PART}", f"*/.*{PART}"):
        for left in folder.glob(pattern):
            remove(left)


class RunDirectory:
    """One run on disk; held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self, *, group: bool = False) -> Iterator[None]:
        """Create the directory (mode 0700) and lock it within the block.

        In the directory of a ``group`` of runs, temporary files are kept: its runs have locks of their own.

        Raises:
            StoreError: if it cannot be written, or another process holds it (the message has the process number).
        """
        with self._locked() as lock:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            with accessing(self.path):
                if not group:
                    sweep(self.path)
                yield

    def _locked(self) -> IO[str]:
        """Return the lock file, locked for this process until it is closed."""
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = (self.path / LOCK).open("a+", encoding="utf-8")
            except OSError as error:
                raise StoreError(
                    f"{self.path}: cannot be written ({error.strerror}); choose another --out"
                ) from error
            if not locked_soon(lock):
                with lock:
                    raise self._running(holder_of(lock))
            if self._is_own(lock):
                return lock
            # Another process moved the directory aside (--fresh) after the file was opened.
            lock.close()

    def _is_own(self, lock: IO[str]) -> bool:
        """Whether an open file is the lock file that is in the directory now."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), (self.path / LOCK).stat())
        except OSError:
            return False

    def _running(self, process: str) -> StoreError:
        return StoreError(
            f"{self.path}: process {process} is running in it; wait for it, or choose another --out"
        )

    def is_held(self) -> bool:
        """Whether a process is running in it."""
        try:
            lock = (self.path / LOCK).open("a+", encoding="utf-8")
        except OSError:
            return False
        with lock:
            return not locked(lock)

    def stage(self, number: int, name: str) -> Artefact[Sample]:
        """Return the artefact of sample stage ``number`` (0 is the source)."""
        return open_samples(self.path / stage_folder(number, name))

    def encoded(self, number: int) -> Artefact[TokenSample]:
        """Return the artefact of encoding, step ``number`` of the run, after the sample stages."""
        return open_tokens(self.path / stage_folder(number, ENCODE))

    def token_stage(
        self, number: int, name: str, before: Artefact[TokenSample]
    ) -> Artefact[TokenSample]:
        """Return the artefact of the token stage ``number``, which reads ``before``."""
        return open_tokens(self.path / stage_folder(number, name), before)

    def stages(self) -> list[tuple[str, Artefact[Sample]]]:
        """Return the artefacts of the source and the sample stages in order, each with its stage's name."""
        folders = itertools.takewhile(lambda path: path.name[3:] != ENCODE, self._folders())
        return [(path.name[3:], open_samples(path)) for path in folders]

    def token_stages(self) -> list[tuple[str, Artefact[TokenSample]]]:
        """Return the artefacts of encoding and the token stages in order, each with its name."""
        folders = itertools.dropwhile(lambda path: path.name[3:] != ENCODE, self._folders())
        out: list[tuple[str, Artefact[TokenSample]]] = []
        before: Artefact[TokenSample] | None = None
        for path in folders:
            before = open_tokens(path, before)
            out.append((path.name[3:], before))
        return out

    def discard_except(self, kept: Collection[str]) -> list[str]:
        """Remove the artefacts of all folders but ``kept``; return their names in order."""
        removed = [path for path in self._folders() if path.name not in kept]
        for path in removed:
            discard(path)
        return [path.name for path in removed]

    def _folders(self) -> list[Path]:
        found = (path for path in self.path.glob("[0-9][0-9]-*") if path.is_dir())
        return sorted(found, key=lambda path: (path.name[:2], path.name[3:] != SOURCE, path.name))
