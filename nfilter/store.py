"""The run directory: artefacts that appear whole or not at all, and fingerprints that say what they are of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from nfilter.errors import StoreError
from nfilter.failpoints import reach
from nfilter.stages import State
from nfilter.types import Message, Sample


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no white space, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(*parts: Any) -> str:
    """SHA-256, in hex, of the canonical JSON of ``parts``."""
    return hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def publishing(path: Path) -> Iterator[IO[str]]:
    """A text file that appears at ``path`` only when the block ends well: written beside, synced, renamed.

    Raises:
        StoreError: when it cannot be written, as on a full disk; what stood at ``path`` before still stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise unwritten(path, error) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            reach("publish.opened")
            yield out
            reach("publish.written")
            out.flush()
            os.fsync(out.fileno())
        reach("publish.synced")
        Path(name).replace(path)
        _sync(path.parent)
        reach("publish.renamed")
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise unwritten(path, error) from error
        raise


def unwritten(path: Path, error: OSError) -> StoreError:
    """What to raise where ``path`` cannot be written."""
    return StoreError(
        f"{path}: cannot be written ({error.strerror or error}); what was published before is whole: make room there, "
        "and the same command goes on"
    )


def _sync(directory: Path) -> None:
    # A rename is on the disk only when its folder is.
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file, indented for people."""
    with publishing(path) as out:
        json.dump(value, out, indent=2, ensure_ascii=False, allow_nan=False)
        out.write("\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Publish a JSON Lines file; returns how many rows it has."""
    count = 0
    with publishing(path) as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[Any]:
    """The rows of a JSON Lines file that nfilter wrote."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_json(path: Path) -> Any:
    """The value of a JSON file that nfilter wrote.

    Raises:
        StoreError: when it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: not there; is {path.parent} the directory of a finished run?"
        ) from error
    except ValueError as error:
        raise StoreError(f"{path}:1: not JSON ({error}); remove it and run again") from error


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


class Artefact:
    """What one stage published: numbered chunks of samples with the decisions about them, and its state.

    A chunk is published before its decisions are, and counts only when both are there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def begin(self, fingerprint: str) -> str:
        """Make the directory ready. Returns ``reused``, ``resumed``, ``changed`` or ``new``."""
        marker = self.directory / "fingerprint"
        old = marker.read_text(encoding="utf-8") if marker.is_file() else None
        if old == fingerprint:
            return "reused" if (self.directory / "done.json").is_file() else "resumed"
        self.remove()
        with publishing(marker) as out:
            out.write(fingerprint)
        reach("stage.begun")
        return "new" if old is None else "changed"

    def remove(self) -> None:
        """Remove what is there, its fingerprint first: what a kill leaves is then never taken for whole."""
        (self.directory / "fingerprint").unlink(missing_ok=True)
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Publish the summary; the artefact is complete from here on."""
        write_json(self.directory / "done.json", summary)
        reach("stage.finished")

    def summary(self) -> dict[str, Any]:
        """What ``finish`` was given."""
        value: dict[str, Any] = read_json(self.directory / "done.json")
        return value

    def has_chunk(self, index: int) -> bool:
        """Whether chunk ``index`` is published with its decisions."""
        return self._chunk(index).is_file() and self._decisions(index).is_file()

    def write_chunk(
        self, index: int, samples: Iterable[Sample], decisions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Publish one chunk and the decisions about its samples."""
        write_jsonl(self._chunk(index), (sample_to_json(sample) for sample in samples))
        reach("chunk.samples")
        write_jsonl(self._decisions(index), decisions)
        reach("chunk.decisions")

    def chunk(self, index: int) -> list[Sample]:
        """The samples of one chunk."""
        return [sample_from_json(row) for row in read_jsonl(self._chunk(index))]

    def chunks(self) -> Iterator[list[Sample]]:
        """All chunks in order, one in memory at a time."""
        index = 0
        while self._chunk(index).is_file():
            yield self.chunk(index)
            index += 1

    def samples(self) -> Iterator[Sample]:
        """All samples in order, dropped ones included."""
        for chunk in self.chunks():
            yield from chunk

    def decisions_of(self, index: int) -> Iterator[dict[str, Any]]:
        """The decisions about the samples of chunk ``index``."""
        return read_jsonl(self._decisions(index))

    def decisions(self) -> Iterator[dict[str, Any]]:
        """All decisions in order."""
        index = 0
        while self._decisions(index).is_file():
            yield from self.decisions_of(index)
            index += 1

    def write_state(self, state: State) -> None:
        """Publish a fitted state: JSON values, and one ``.npy`` an array."""
        folder = self.directory / "state"
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in state.arrays.items():
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as out:
                np.save(out, np.asarray(values), allow_pickle=False)
                out.flush()
                os.fsync(out.fileno())
            Path(out.name).replace(folder / f"{name}.npy")
        write_json(folder / "state.json", {"values": state.values, "arrays": sorted(state.arrays)})

    def read_state(self) -> State | None:
        """The published state, arrays memory-mapped; None where none is complete."""
        file = self.directory / "state" / "state.json"
        if not file.is_file():
            return None
        value = read_json(file)
        arrays = {
            name: np.load(file.parent / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in value["arrays"]
        }
        return State(value["values"], arrays)

    def _chunk(self, index: int) -> Path:
        return self.directory / f"chunk-{index:06d}.jsonl"

    def _decisions(self, index: int) -> Path:
        return self.directory / f"decisions-{index:06d}.jsonl"


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
