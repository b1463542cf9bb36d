"""Reading run directories: which stages published what, and whether the figures are of these artefacts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter.errors import StoreError

if TYPE_CHECKING:
    from nfilter.store import Artefact, RunDirectory
    from nfilter.types import Sample

VERDICT_KEYS = frozenset({"flagged", "noise_score"})
SOURCE = "source"


def children_of(path: Path) -> list[Path]:
    """The child runs ``seed-N`` of a group's directory, by seed."""
    found = [
        item
        for item in path.glob("seed-*")
        if item.is_dir() and item.name[5:].lstrip("-").isdigit()
    ]
    return sorted(found, key=lambda item: int(item.name[5:]))


def open_run(path: Path) -> RunDirectory:
    """The run at ``path``.

    Raises:
        StoreError: when there is no run; a group of runs is told apart, and one of its children is named.
    """
    from nfilter.store import RunDirectory

    run = RunDirectory(path)
    if not path.is_dir():
        raise StoreError(
            f"{path}: no such directory; name the directory that `nfilter run` wrote, like runs/NAME"
        )
    if (path / f"00-{SOURCE}").is_dir():
        return run
    children = children_of(path)
    if children:
        names = ", ".join(child.name for child in children)
        raise StoreError(
            f"{path}: a group of runs with one child a seed ({names}); name one of them, like {children[0]}"
        )
    raise StoreError(
        f"{path}: not the directory of a run (it has no 00-{SOURCE}); name one that `nfilter run` wrote"
    )


def label(artefact: Artefact) -> str:
    """The name of a stage in its run: number and stage, as the decisions and the journal have it."""
    name = artefact.directory.name
    return SOURCE if name == f"00-{SOURCE}" else name


def stages(run: RunDirectory) -> list[Artefact]:
    """All artefacts in order, the source first; the last may be unfinished."""
    return [artefact for _, artefact in run.stages()]


def finished(artefact: Artefact) -> bool:
    """Whether the stage published all of its chunks."""
    return (artefact.directory / "done.json").is_file()


def last_finished(run: RunDirectory) -> Artefact:
    """The artefact of the last finished stage.

    Raises:
        StoreError: when not even the source was read to its end.
    """
    done = [artefact for artefact in stages(run) if finished(artefact)]
    if not done:
        raise StoreError(
            f"{run.path}: its source was not read to the end; run the same command again"
        )
    return done[-1]


def ended(run: RunDirectory) -> bool:
    """Whether cleaned.jsonl, dropped.jsonl and metrics.json are of the artefacts that are there now."""
    from nfilter.store import read_json

    manifest = run.path / "manifest.json"
    if not manifest.is_file():
        return False
    known = read_json(manifest).get("fingerprints", {})
    for artefact in stages(run):
        marker = artefact.directory / "fingerprint"
        if not finished(artefact) or not marker.is_file():
            return False
        if known.get(label(artefact)) != marker.read_text(encoding="utf-8"):
            return False
    return True


def metrics_of(path: Path) -> dict[str, Any]:
    """What metrics.json of a run or of a group holds.

    Raises:
        StoreError: when it is not there or is not JSON.
    """
    from nfilter.store import read_json

    file = path / "metrics.json"
    if not file.is_file():
        why = (
            "the run has not ended; run the same command again"
            if (path / f"00-{SOURCE}").is_dir()
            else "not a run"
        )
        raise StoreError(f"{file}: not there; {why}")
    value: dict[str, Any] = read_json(file)
    return value


def optional_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that may be absent."""
    if path.is_file():
        from nfilter.store import read_jsonl

        yield from read_jsonl(path)


def verdict_of(sample: Sample) -> tuple[str, Mapping[str, Any]] | None:
    """The name and value of the last note that says whether the label is wrong; None where no stage wrote one."""
    for name in reversed(list(sample.notes)):
        note = sample.notes[name]
        if isinstance(note, Mapping) and note.keys() >= VERDICT_KEYS:
            return name, note
    return None


def lines_about(path: Path, sample_id: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file in which ``sample_id`` occurs somewhere; the rest are not even decoded."""
    needle = json.dumps(sample_id, ensure_ascii=False)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if needle in line:
                yield json.loads(line)


def ids_of(artefact: Artefact) -> Iterator[str]:
    """All ids of an artefact in order."""
    decoder = json.JSONDecoder()
    start = '{"id": '
    for path in sorted(artefact.directory.glob("chunk-*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                # The id comes first in what the store writes; decoding it alone is many times faster.
                if line.startswith(start):
                    yield str(decoder.raw_decode(line, len(start))[0])
                else:
                    yield str(json.loads(line)["id"])
