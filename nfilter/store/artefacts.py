"""Artefacts: the output of a stage, published chunk by chunk, with a fingerprint of its inputs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from nfilter.api.errors import DamageError
from nfilter.api.stages import State
from nfilter.store.failpoints import reach
from nfilter.store.files import (
    digest,
    read_sealed,
    remove,
    seals_of,
    write_array,
    write_bytes,
    write_json,
    write_jsonl,
    write_sealed,
)
from nfilter.store.seals import Seal, check, damaged, read, unreadable

T = TypeVar("T")

FINGERPRINT = "fingerprint"
DONE = "done.json"
_PARTS = "parts.jsonl"
_STATE = "state/state.json"
_MODEL = "model.json"
_OWN = "artefact"
_BESIDE = "../"


class Chunks(Protocol[T]):
    """File format of one chunk of samples."""

    @property
    def suffix(self) -> str:
        """The file name extension, with the dot."""
        ...

    def write(self, path: Path, index: int, samples: Iterable[T]) -> Seal:
        """Publish the samples of chunk ``index`` at ``path``."""
        ...

    def read(self, data: bytes, index: int) -> list[T]:
        """Return the samples of chunk ``index`` from the bytes of its file."""
        ...


class Begun(NamedTuple):
    """The status of an artefact when its stage begins, and the reason, which is logged."""

    status: Literal["new", "changed", "damaged", "resumed", "reused"]
    why: str = ""


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """Return one SHA-256 of the named ``parts`` that determine an artefact: config, code, models, input."""
    return digest(part_digests(parts))


def part_digests(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return one digest per part, so that a changed part can be named."""
    return {name: digest(part) for name, part in parts.items()}


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the names of the parts that differ, joined by commas."""
    return ", ".join(name for name in {**old, **new} if old.get(name) != new.get(name))


class Artefact(Generic[T]):
    """The output of one stage: numbered chunks of samples, the decisions about them, and the state of ``fit``.

    A chunk is published before its decisions, and is complete only when both are present. ``done.json`` has the size and
    SHA-256 of every file; until it is written, ``parts.jsonl`` has them. Every read verifies them.
    """

    def __init__(self, directory: Path, chunks: Chunks[T]) -> None:
        self.directory = directory
        self.home = directory.parent
        self._chunks = chunks
        self._files: dict[str, Seal] | None = None

    def begin(self, parts: Mapping[str, Any]) -> Begun:
        """Prepare the directory for an artefact with these ``parts``. Keep its content if the parts are equal and the files undamaged."""
        current = part_digests(parts)
        try:
            old = self._parts()
            if old == current:
                self._verify(digest(current))
                return Begun("reused" if finished(self) else "resumed")
            begun = Begun("changed", differing(old, current)) if old is not None else Begun("new")
        except DamageError as error:
            begun = Begun("damaged", f"{error.path} {error.what}")
        self.remove()
        write_sealed(self.directory / FINGERPRINT, current)
        reach("stage.begun")
        return begun

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether the artefact has this fingerprint."""
        try:
            return self.fingerprint() == fingerprint
        except DamageError:
            return False

    def begun_with(self) -> Mapping[str, str]:
        """Return the digests of the parts with which the stage began, by name; empty if none began or they are damaged."""
        try:
            return self._parts() or {}
        except DamageError:
            return {}

    def has_parts(self, parts: Mapping[str, Any]) -> bool:
        """Whether the artefact has the fingerprint of these parts."""
        return self.has_fingerprint(fingerprint_of(parts))

    def fingerprint(self) -> str | None:
        """Return the fingerprint; None if no stage began here.

        Raises:
            DamageError: if the file of the fingerprint is damaged.
        """
        parts = self._parts()
        return None if parts is None else digest(parts)

    def remove(self) -> None:
        """Remove the directory."""
        self._files = None
        discard(self.directory)

    def finish(self, summary: Mapping[str, Any], beside: Mapping[str, Seal] | None = None) -> None:
        """Publish the summary, which completes the artefact.

        ``beside`` are files of the artefact that are in the run's own folder.
        """
        self._known().update({_BESIDE + name: seal for name, seal in (beside or {}).items()})
        write_sealed(
            self.directory / DONE,
            {**summary, _OWN: {"fingerprint": self.fingerprint(), "files": self._known()}},
        )
        reach("stage.finished")
        remove(self.directory / _PARTS)

    def summary(self) -> dict[str, Any]:
        """Return the summary that ``finish`` published.

        Raises:
            DamageError: if it is damaged.
        """
        value = read_sealed(self.directory / DONE, self.home)
        value.pop(_OWN, None)
        return value

    def has_chunk(self, index: int) -> bool:
        """Whether chunk ``index`` is published with its decisions."""
        return self._chunk(index) in self._known() and _decisions(index) in self._known()

    def write_chunk(
        self, index: int, samples: Iterable[T], decisions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Publish one chunk and the decisions about its samples."""
        chunk, beside = self.directory / self._chunk(index), self.directory / _decisions(index)
        first = self._chunks.write(chunk, index, samples)
        reach("chunk.samples")
        second = write_jsonl(beside, decisions)
        reach("chunk.decisions")
        self._add({chunk.name: first, beside.name: second})

    def adopt_chunk(self, index: int, other: Artefact[T]) -> None:
        """Publish chunk ``index`` of ``other``, an artefact of the same stage in another folder, byte for byte.

        Raises:
            DamageError: if ``other`` lacks the chunk, or it is damaged.
        """
        names = (self._chunk(index), _decisions(index))
        data = {name: other._read(name) for name in names}
        self._add({name: write_bytes(self.directory / name, each) for name, each in data.items()})

    def in_folder(self, directory: Path) -> Artefact[T]:
        """Return the artefact of the same stage in another folder."""
        return Artefact(directory, self._chunks)

    def chunk_count(self) -> int:
        """Return the number of chunks that follow one another from the first."""
        return next(index for index in itertools.count() if self._chunk(index) not in self._known())

    def chunk(self, index: int) -> list[T]:
        """Return the samples of one chunk.

        Raises:
            DamageError: if its file is missing or damaged.
        """
        return self._chunks.read(self._read(self._chunk(index)), index)

    def chunks(self) -> Iterator[list[T]]:
        """Yield all chunks in order, one in memory at a time."""
        index = 0
        while self._chunk(index) in self._known():
            yield self.chunk(index)
            index += 1

    def samples(self) -> Iterator[T]:
        """Yield all samples in order, dropped ones included."""
        for chunk in self.chunks():
            yield from chunk

    def decisions_of(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the decisions about the samples of chunk ``index``."""
        return self._rows(_decisions(index))

    def decisions(self) -> Iterator[dict[str, Any]]:
        """Yield all decisions in order."""
        index = 0
        while self.has_chunk(index):
            yield from self.decisions_of(index)
            index += 1

    def chunk_files(self) -> list[tuple[str, str]]:
        """Return the file names of each complete chunk and of its decisions, in order."""
        complete = itertools.takewhile(self.has_chunk, itertools.count())
        return [(self._chunk(index), _decisions(index)) for index in complete]

    def path(self, name: str) -> Path:
        """Return the path of the published file ``name``.

        Raises:
            DamageError: if it is missing or was changed.
        """
        path = self._path_of(name)
        check(path, self._seal(name), self.home)
        return path

    def rows_beside(self, name: str) -> Iterator[Any]:
        """Yield the rows of a file in the run's own folder that ``finish`` received as ``beside``.

        Raises:
            DamageError: if it is missing or damaged.
        """
        return self._rows(_BESIDE + name)

    def path_beside(self, name: str) -> Path:
        """Return the path of a file in the run's own folder that ``finish`` received as ``beside``.

        Raises:
            DamageError: if it is missing or was changed.
        """
        return self.path(_BESIDE + name)

    def write_state(self, state: State) -> None:
        """Publish the state of ``fit``: JSON values, and one ``.npy`` file per array."""
        seals = {
            f"state/{name}.npy": write_array(self.directory / "state" / f"{name}.npy", values)
            for name, values in state.arrays.items()
        }
        value = {"values": state.values, "arrays": sorted(state.arrays)}
        seals[_STATE] = write_json(self.directory / _STATE, value)
        self._add(seals)

    def read_state(self) -> State | None:
        """Return the published state with memory-mapped arrays; None if none is complete."""
        if _STATE not in self._known():
            return None
        value = json.loads(self._read(_STATE))
        arrays = {
            name: np.load(self.path(f"state/{name}.npy"), mmap_mode="r", allow_pickle=False)
            for name in value["arrays"]
        }
        return State(value["values"], arrays)

    def write_model(self, record: Mapping[str, Any]) -> None:
        """Publish the record of the model that the stage offers."""
        self._add({_MODEL: write_json(self.directory / _MODEL, record)})

    def read_model(self) -> dict[str, Any] | None:
        """Return the last record of ``write_model``; None if the stage offered no model.

        Raises:
            DamageError: if it is damaged.
        """
        if _MODEL not in self._known():
            return None
        value: dict[str, Any] = json.loads(self._read(_MODEL))
        return value

    def _chunk(self, index: int) -> str:
        return f"chunk-{index:06d}{self._chunks.suffix}"

    def _read(self, name: str) -> bytes:
        return read(self._path_of(name), self._seal(name), self.home)

    def _rows(self, name: str) -> Iterator[Any]:
        return (json.loads(line) for line in self._read(name).decode().split("\n") if line)

    def _parts(self) -> dict[str, Any] | None:
        if not self.directory.exists():
            return None
        return read_sealed(self.directory / FINGERPRINT, self.home)

    def _verify(self, fingerprint: str) -> None:
        if finished(self):
            own = read_sealed(self.directory / DONE, self.home).get(_OWN, {})
            if own.get("fingerprint") != fingerprint:
                raise damaged(self.directory / DONE, "belongs to another stage", self.home)
            for ending in (".jsonl", self._chunks.suffix):
                for path in self.directory.glob(f"*-*{ending}"):
                    self._seal(path.name)
        for name in self._known():
            self.path(name)

    def _path_of(self, name: str) -> Path:
        return (
            self.home / name[len(_BESIDE) :] if name.startswith(_BESIDE) else self.directory / name
        )

    def _seal(self, name: str) -> Seal:
        seal = self._known().get(name)
        if seal is None:
            raise damaged(
                self._path_of(name), "is not in the stage's list of published files", self.home
            )
        return seal

    def _add(self, seals: Mapping[str, Seal]) -> None:
        self._known().update(seals)
        # Not synced: chunks whose lines a power cut removes are computed again.
        with (self.directory / _PARTS).open("a", encoding="utf-8") as out:
            out.write(json.dumps(seals) + "\n")

    def _known(self) -> dict[str, Seal]:
        """The published files, by name."""
        if self._files is None:
            if finished(self):
                own = read_sealed(self.directory / DONE, self.home).get(_OWN, {})
                self._files = seals_of(own.get("files"))
            else:
                self._files = self._unfinished()
        return self._files

    def _unfinished(self) -> dict[str, Seal]:
        """The files of a stage that has not ended, from ``parts.jsonl``."""
        path = self.directory / _PARTS
        if not path.exists():
            return {}
        known: dict[str, Seal] = {}
        try:
            # A last line without a line break was cut off by a kill.
            for line in path.read_bytes().decode().split("\n")[:-1]:
                known.update(seals_of(json.loads(line)))
        except OSError as error:
            raise unreadable(path, error, self.home) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(path, f"cannot be read ({error})", self.home) from error
        return known


def finished(artefact: Artefact[Any]) -> bool:
    """Whether the stage published all of its chunks."""
    return (artefact.directory / DONE).exists()


def discard(directory: Path) -> None:
    """Remove an artefact, its fingerprint first, so that a kill in between leaves nothing that looks complete."""
    if directory.is_dir():
        remove(directory / FINGERPRINT)
    remove(directory)


def _decisions(index: int) -> str:
    return f"decisions-{index:06d}.jsonl"
