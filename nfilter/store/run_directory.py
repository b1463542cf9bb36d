"""The run directory: artefacts that appear whole or not at all, and fingerprints that say what they are of."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from nfilter.api.errors import DamageError, StoreError
from nfilter.api.stages import State
from nfilter.api.types import Message, Sample
from nfilter.store.failpoints import reach
from nfilter.store.files import (
    canonical,
    digest,
    publishing,
    read_json,
    read_jsonl,
    read_sealed,
    remove,
    save_array,
    seals_of,
    unwritten,
    write_json,
    write_jsonl,
    write_sealed,
)
from nfilter.store.seals import Seal, check, damaged, read, remember, unreadable

__all__ = [
    "Artefact",
    "Begun",
    "RunDirectory",
    "canonical",
    "differing",
    "digest",
    "fingerprint_of",
    "finished",
    "publishing",
    "read_json",
    "read_jsonl",
    "read_sealed",
    "sample_from_json",
    "sample_to_json",
    "seals_of",
    "set_aside",
    "unwritten",
    "write_json",
    "write_jsonl",
    "write_sealed",
]

FINGERPRINT = "fingerprint"
DONE = "done.json"
_PARTS = "parts.jsonl"
_STATE = "state/state.json"
_OWN = "artefact"
_BESIDE = "../"


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """A sample as JSON; ``why`` is left out, the decisions hold it."""
    return {
        "id": sample.id,
        "messages": [message.packed() for message in sample.messages],
        "notes": dict(sample.notes),
        "meta": dict(sample.meta),
        "parents": list(sample.parents),
        "weight": sample.weight,
        "pinned": sample.pinned,
        "dropped": sample.dropped,
        **({"tools": [dict(tool) for tool in sample.tools]} if sample.tools else {}),
    }


def sample_from_json(value: Mapping[str, Any]) -> Sample:
    """The inverse of ``sample_to_json``."""
    return Sample(
        id=value["id"],
        messages=tuple(Message.unpacked(message) for message in value["messages"]),
        notes=MappingProxyType(value["notes"]),
        meta=MappingProxyType(value["meta"]),
        parents=tuple(value["parents"]),
        weight=value["weight"],
        pinned=value["pinned"],
        dropped=value["dropped"],
        tools=tuple(value.get("tools", ())),
    )


class Begun(NamedTuple):
    """How an artefact was found when its stage began, and what is to be said of it."""

    status: Literal["new", "changed", "damaged", "resumed", "reused"]
    why: str = ""


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """One SHA-256 of the named ``parts``: what an artefact is of."""
    return digest(_hashed(parts))


def _hashed(parts: Mapping[str, Any]) -> dict[str, str]:
    return {name: digest(part) for name, part in parts.items()}


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The names of the parts that are not alike, for people."""
    return ", ".join(name for name in {**old, **new} if old.get(name) != new.get(name))


class Artefact:
    """What one stage published: numbered chunks of samples with the decisions about them, and its state.

    A chunk is published before its decisions are, and counts only when both are there. ``done.json`` has the size and
    SHA-256 of every file; until it is written ``parts.jsonl`` has them. What is read is compared with them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory.parent
        self._files: dict[str, Seal] | None = None

    def begin(self, parts: Mapping[str, Any]) -> Begun:
        """Make the directory ready for what ``parts`` describe; what is there is kept if it is of the same and whole."""
        made = _hashed(parts)
        try:
            old = self._parts()
            if old == made:
                self._verify(digest(made))
                return Begun("reused" if finished(self) else "resumed")
            begun = Begun("changed", differing(old, made)) if old is not None else Begun("new")
        except DamageError as error:
            begun = Begun("damaged", f"{error.path} {error.what}")
        self.remove()
        write_sealed(self.directory / FINGERPRINT, made)
        reach("stage.begun")
        return begun

    def of(self, fingerprint: str) -> bool:
        """Whether the artefact is of that fingerprint."""
        try:
            return self.fingerprint() == fingerprint
        except DamageError:
            return False

    def fingerprint(self) -> str | None:
        """What the artefact is of; None where nothing was begun. Raises DamageError."""
        parts = self._parts()
        return None if parts is None else digest(parts)

    def remove(self) -> None:
        """Remove what is there, its fingerprint first: what a kill leaves is then never taken for whole."""
        self._files = None
        if self.directory.is_dir():
            remove(self.directory / FINGERPRINT)
        remove(self.directory)

    def finish(self, summary: Mapping[str, Any], beside: Mapping[str, Seal] | None = None) -> None:
        """Publish the summary; the artefact is complete from here on.

        ``beside`` are files that belong to it and lie in the run's own folder.
        """
        self._known().update({_BESIDE + name: seal for name, seal in (beside or {}).items()})
        write_sealed(
            self.directory / DONE,
            {**summary, _OWN: {"fingerprint": self.fingerprint(), "files": self._known()}},
        )
        reach("stage.finished")
        remove(self.directory / _PARTS)

    def summary(self) -> dict[str, Any]:
        """What ``finish`` was given. Raises DamageError."""
        value = read_sealed(self.directory / DONE, self.home)
        value.pop(_OWN, None)
        return value

    def has_chunk(self, index: int) -> bool:
        """Whether chunk ``index`` is published with its decisions."""
        return _chunk(index) in self._known() and _decisions(index) in self._known()

    def write_chunk(
        self, index: int, samples: Iterable[Sample], decisions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Publish one chunk and the decisions about its samples."""
        chunk, beside = self.directory / _chunk(index), self.directory / _decisions(index)
        first = write_jsonl(chunk, (sample_to_json(sample) for sample in samples))
        reach("chunk.samples")
        second = write_jsonl(beside, decisions)
        reach("chunk.decisions")
        self._add({chunk.name: first, beside.name: second})

    def chunk(self, index: int) -> list[Sample]:
        """The samples of one chunk."""
        return [sample_from_json(row) for row in self.rows(_chunk(index))]

    def chunks(self) -> Iterator[list[Sample]]:
        """All chunks in order, one in memory at a time."""
        index = 0
        while _chunk(index) in self._known():
            yield self.chunk(index)
            index += 1

    def samples(self) -> Iterator[Sample]:
        """All samples in order, dropped ones included."""
        for chunk in self.chunks():
            yield from chunk

    def decisions_of(self, index: int) -> Iterator[dict[str, Any]]:
        """The decisions about the samples of chunk ``index``."""
        return self.rows(_decisions(index))

    def decisions(self) -> Iterator[dict[str, Any]]:
        """All decisions in order."""
        index = 0
        while self.has_chunk(index):
            yield from self.decisions_of(index)
            index += 1

    def pairs(self) -> list[tuple[str, str]]:
        """The file names of every whole chunk and of its decisions, in order."""
        whole = itertools.takewhile(self.has_chunk, itertools.count())
        return [(_chunk(index), _decisions(index)) for index in whole]

    def path(self, name: str) -> Path:
        """Where the published file ``name`` is, after a look at it. Raises DamageError where it is not what was written."""
        path = self._place(name)
        check(path, self._seal(name), self.home)
        return path

    def rows(self, name: str) -> Iterator[Any]:
        """The rows of the published file ``name``. Raises DamageError where it is not what was written."""
        data = read(self._place(name), self._seal(name), self.home)
        return (json.loads(line) for line in data.decode().split("\n") if line)

    def rows_beside(self, name: str) -> Iterator[Any]:
        """The rows of a file in the run's own folder that ``finish`` was told of."""
        return self.rows(_BESIDE + name)

    def write_state(self, state: State) -> None:
        """Publish a fitted state: JSON values, and one ``.npy`` an array."""
        folder = self.directory / "state"
        folder.mkdir(parents=True, exist_ok=True)
        seals = {}
        for name, values in state.arrays.items():
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as out:
                seal = save_array(out, values)
                out.flush()
                os.fsync(out.fileno())
            Path(out.name).replace(folder / f"{name}.npy")
            remember(folder / f"{name}.npy", seal)
            seals[f"state/{name}.npy"] = seal
        value = {"values": state.values, "arrays": sorted(state.arrays)}
        seals[_STATE] = write_json(self.directory / _STATE, value)
        self._add(seals)

    def read_state(self) -> State | None:
        """The published state, arrays memory-mapped; None where none is complete."""
        if _STATE not in self._known():
            return None
        value = json.loads(read(self.directory / _STATE, self._seal(_STATE), self.home))
        arrays = {
            name: np.load(self.path(f"state/{name}.npy"), mmap_mode="r", allow_pickle=False)
            for name in value["arrays"]
        }
        return State(value["values"], arrays)

    def _parts(self) -> dict[str, Any] | None:
        if not self.directory.exists():
            return None
        return read_sealed(self.directory / FINGERPRINT, self.home)

    def _verify(self, fingerprint: str) -> None:
        if finished(self):
            own = read_sealed(self.directory / DONE, self.home).get(_OWN, {})
            if own.get("fingerprint") != fingerprint:
                raise damaged(self.directory / DONE, "is of another stage", self.home)
            for path in self.directory.glob("*-*.jsonl"):
                self._seal(path.name)
        for name in self._known():
            self.path(name)

    def _place(self, name: str) -> Path:
        return (
            self.home / name[len(_BESIDE) :] if name.startswith(_BESIDE) else self.directory / name
        )

    def _seal(self, name: str) -> Seal:
        seal = self._known().get(name)
        if seal is None:
            raise damaged(
                self._place(name), "is not among the files that the stage published", self.home
            )
        return seal

    def _add(self, seals: Mapping[str, Seal]) -> None:
        self._known().update(seals)
        # Not synced: what a power cut takes from here is made again.
        with (self.directory / _PARTS).open("a", encoding="utf-8") as out:
            out.write(json.dumps(seals) + "\n")

    def _known(self) -> dict[str, Seal]:
        """What is published, by file name."""
        if self._files is None:
            if finished(self):
                own = read_sealed(self.directory / DONE, self.home).get(_OWN, {})
                self._files = seals_of(own.get("files"))
            else:
                self._files = self._unfinished()
        return self._files

    def _unfinished(self) -> dict[str, Seal]:
        path = self.directory / _PARTS
        if not path.exists():
            return {}
        found: dict[str, Seal] = {}
        try:
            # A line without an end is one that a kill cut off.
            for line in path.read_bytes().decode().split("\n")[:-1]:
                found.update(seals_of(json.loads(line)))
        except OSError as error:
            raise unreadable(path, error, self.home) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(path, f"cannot be read ({error})", self.home) from error
        return found


def finished(artefact: Artefact) -> bool:
    """Whether the stage published all of its chunks."""
    return (artefact.directory / DONE).exists()


def _chunk(index: int) -> str:
    return f"chunk-{index:06d}.jsonl"


def _decisions(index: int) -> str:
    return f"decisions-{index:06d}.jsonl"


def set_aside(path: Path) -> Path | None:
    """Rename the folder of a run or of a group, so that the next one begins anew; where it is now. None where there is none.

    Raises:
        StoreError: when it is no run's, or a process is running in it.
    """
    if not path.exists():
        return None
    children = [child for child in path.glob("seed-*") if child.is_dir()]
    if (
        not any((path / name).exists() for name in ("00-source", "journal.db", ".lock"))
        and not children
    ):
        raise StoreError(
            f"{path}: not the folder of a run, so it stays as it is; choose another --out"
        )
    names = (path.with_name(f"{path.name}.old-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    with ExitStack() as held:
        for folder in (path, *children):
            held.enter_context(RunDirectory(folder).held())
        path.rename(aside)
    return aside


def keep_apart(path: Path, *, seeds: bool) -> None:
    """Keep the run of one seed and a group of ``seeds`` out of each other's directory: one would stand for the other.

    Raises:
        StoreError: when ``path`` holds the other kind.
    """
    held = (path / "00-source").exists() if seeds else any(path.glob("seed-*/00-source"))
    if held:
        kinds = ("a run of one seed", "runs with --seeds")
        there, wanted = kinds if seeds else kinds[::-1]
        raise StoreError(
            f"{path}: holds {there}, and {wanted} would write over its figures; choose another --out, or add --fresh, which moves {path} away"
        )


def _holder(lock: IO[str]) -> str:
    # Whoever has just taken the lock writes its number a moment later.
    for _ in range(50):
        lock.seek(0)
        if found := lock.read().strip():
            return found
        time.sleep(0.02)
    return "unknown"


class RunDirectory:
    """One run on disk; held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory (mode 0700) and hold it.

        Raises:
            StoreError: when it cannot be written, or another process holds it (named by its number).
        """
        import fcntl

        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error.strerror}); choose another --out"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(lock)
                raise StoreError(
                    f"{self.path}: process {holder} is running in it; wait for it, or choose another --out"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def stage(self, number: int, name: str) -> Artefact:
        """The artefact of stage ``number`` (0 is the source)."""
        return Artefact(self.path / f"{number:02d}-{name}")

    def stages(self) -> list[tuple[str, Artefact]]:
        """All artefacts in order, by the name of their stage."""
        found = sorted(path for path in self.path.glob("[0-9][0-9]-*") if path.is_dir())
        return [(path.name[3:], Artefact(path)) for path in found]

    def discard_after(self, number: int) -> list[str]:
        """Remove artefacts of stages that the recipe no longer has; returns their names."""
        gone = []
        for path in self.path.glob("[0-9][0-9]-*"):
            if path.is_dir() and int(path.name[:2]) > number:
                Artefact(path).remove()
                gone.append(path.name)
        return sorted(gone)
