"""The files by which ranks communicate, in the folder ``ranks`` of a run. Each has one writer and is replaced as a whole.

``ranks/offer.json`` is of rank 0. All other files that a rank writes are in ``ranks/K``: its lock, journal, scores, log and
chunks. Rank 0 reads them and publishes their content in the run's own folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from nfilter.api.errors import DamageError, StoreError
from nfilter.api.file_errors import write_error
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.waiting import Waiting
from nfilter.store.files import read_sealed, write_sealed
from nfilter.store.locks import locked, unlock

RANKS: Final = "ranks"
JOURNAL: Final = "journal.db"
SCORES: Final = "scores"
LOCK: Final = "lock"
WARNED: Final = "warnings.json"
LOG: Final = "run.log"
_OFFER: Final = "offer.json"
_FAILED: Final = "failed.json"
_PATIENCE: Final = 12  # looks at a lock, about five seconds, before it is called held


@dataclass(frozen=True, slots=True)
class Offer:
    """What rank 0 has to share.

    Attributes:
        session: Identifies the process of rank 0.
        number: Counts the offers of a session.
        world: The number of ranks.
        same: A digest of everything that must be equal in all ranks, by name.
        stage: The label of the stage whose chunks are shared; None if there is none.
        before: The folder of its input.
        input: The fingerprint of its input.
        parts: The digests of the parts that determine its artefact, by name.
        pending: The chunks that were not published when the offer was made.
        ended: How the run of rank 0 ended; None while it runs.
    """

    session: str
    number: int
    world: int
    same: Mapping[str, str]
    stage: str | None = None
    before: str = ""
    input: str = ""
    parts: Mapping[str, str] | None = None
    pending: tuple[int, ...] = ()
    ended: str | None = None

    @property
    def key(self) -> str:
        """What distinguishes it from every other offer."""
        return f"{self.session}-{self.number}"

    def write(self, run: Path) -> None:
        """Publish the offer of the run in the folder ``run``."""
        write_sealed(run / RANKS / _OFFER, asdict(self))

    @classmethod
    def read(cls, run: Path) -> Offer | None:
        """Return the offer of the run in the folder ``run``; None if there is no undamaged one."""
        with suppress(DamageError, TypeError):
            value = read_sealed(run / RANKS / _OFFER, run)
            return cls(**{**value, "pending": tuple(value.get("pending", ()))})
        return None


@dataclass(frozen=True, slots=True)
class Claim:
    """The process that runs as a rank, in its lock file."""

    process: int
    host: str
    rank: int
    world: int
    same: Mapping[str, str]

    @classmethod
    def of(cls, place: Place, same: Mapping[str, str]) -> Claim:
        """Return the claim of this process."""
        return cls(os.getpid(), os.uname().nodename, place.rank, place.world, same)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def rank_folder(run: Path, rank: int) -> Path:
    """Return the folder of a rank."""
    return run / RANKS / str(rank)


def rank_folders(run: Path) -> list[tuple[int, Path]]:
    """Return the folders of all ranks of this and earlier worlds, by rank."""
    found = (run / RANKS).glob("*")
    return sorted((int(path.name), path) for path in found if path.name.isdigit() and path.is_dir())


@contextmanager
def claimed(folder: Path, claim: Claim, waiting: Waiting) -> Iterator[None]:
    """Create the folder of a rank and lock it within the block, after rank 0 has taken over what a rank of another world left.

    Raises:
        StoreError: if another process runs as this rank.
    """
    try:
        # A mode applies to the last folder alone.
        for each in (folder.parents[1], folder.parent, folder):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise write_error(folder, error) from error
    with lock:
        looks = 0

        def look() -> bool | None:
            nonlocal looks
            if locked(lock):
                before = _read_claim(lock)
                if before is None or before.world == claim.world or not (folder / JOURNAL).exists():
                    return True
                # Its calls are for chunks that other ranks do now; rank 0 takes them over when it starts.
                unlock(lock)
                return None
            holder = _read_claim(lock)
            looks += 1
            if looks > _PATIENCE and holder is not None and holder.rank:
                raise StoreError(
                    f"{folder}: {holder} runs as rank {holder.rank} of {holder.world}; stop it, give each process another "
                    "--rank, or choose another --out"
                )
            return None

        waiting.until(look, lambda: "rank 0 to take over what an earlier process left")
        _write_claim(lock, claim)
        yield


@contextmanager
def taken_over(folder: Path, claim: Claim) -> Iterator[Claim | None]:
    """Lock the folder of a rank within the block, and yield None; if a process runs as that rank, yield its claim.

    A process that has just locked the folder may not have written its claim yet: this is then an older one, or of no world.
    """
    with (folder / LOCK).open("a+", encoding="utf-8") as lock:
        if not locked(lock):
            yield _read_claim(lock) or Claim(0, "unknown", 0, 0, {})
            return
        _write_claim(lock, claim)
        yield None


def _write_claim(lock: IO[str], claim: Claim) -> None:
    lock.truncate(0)
    lock.write(json.dumps(asdict(claim)))
    lock.flush()
    os.fsync(lock.fileno())


def _read_claim(lock: IO[str]) -> Claim | None:
    """The claim in a lock file; None while it is being written."""
    lock.seek(0)
    try:
        return Claim(**json.loads(lock.read()))
    except (ValueError, TypeError):
        return None


def write_failure(folder: Path, error: BaseException, *, final: bool) -> None:
    """Publish the error that ended a rank; ``final``: it would come again."""
    with suppress(StoreError):
        write_sealed(folder / _FAILED, {"error": str(error) or repr(error), "final": final})


def read_failure(folder: Path) -> Mapping[str, Any] | None:
    """Return the error that ended a rank; None if it has not ended with one."""
    with suppress(DamageError):
        return read_sealed(folder / _FAILED, folder)
    return None


def failure_file(folder: Path) -> Path:
    """Return the file of the error that ended a rank."""
    return folder / _FAILED
