"""Read run directories: their stages, files and figures, and whether the figures belong to the present artefacts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nfilter.api.errors import StoreError
from nfilter.api.notes import Verdict
from nfilter.api.types import Sample
from nfilter.store import artefacts
from nfilter.store.artefacts import Artefact
from nfilter.store.files import read_json, read_jsonl, read_sealed, seals_of
from nfilter.store.locks import other_process
from nfilter.store.run_directory import RunDirectory
from nfilter.store.samples import sample_from_json
from nfilter.store.seals import check, damaged
from nfilter.store.tokens import has_tokens

SOURCE = "source"
MANIFEST = "manifest.json"
LOCK = "recipe.lock.yaml"
_CHECKED_ROWS = 2000


def children_of(path: Path) -> list[Path]:
    """Return the runs ``seed-N`` in a group's directory, by seed."""
    children = [
        item
        for item in path.glob("seed-*")
        if item.is_dir() and item.name[5:].lstrip("-").isdigit()
    ]
    return sorted(children, key=lambda item: int(item.name[5:]))


def first_run(path: Path) -> Path:
    """Return the first run of a group's directory; the directory itself if it is no group."""
    return next(iter(children_of(path)), path)


def is_run(path: Path) -> bool:
    """Whether a run was begun in the directory."""
    return (path / f"00-{SOURCE}").is_dir()


def open_run(path: Path) -> RunDirectory:
    """Open the run at ``path``.

    Raises:
        StoreError: if there is no run; for a group, the message names one of its runs.
    """
    run = RunDirectory(path)
    if not path.is_dir():
        raise StoreError(
            f"{path}: no such directory; name the directory that `nfilter run` wrote, like runs/NAME"
        )
    if is_run(path):
        return run
    children = children_of(path)
    if children:
        names = ", ".join(child.name for child in children)
        raise StoreError(
            f"{path}: a group with one run per seed ({names}); name one of them, like {children[0]}"
        )
    raise StoreError(
        f"{path}: not the directory of a run (it has no 00-{SOURCE}); name one that `nfilter run` wrote"
    )


def label(artefact: Artefact[Any]) -> str:
    """Return the label of a stage in its run, number and name, as in decisions and the journal."""
    name = artefact.directory.name
    return SOURCE if name == f"00-{SOURCE}" else name


def stages(run: RunDirectory) -> list[Artefact[Sample]]:
    """Return all artefacts in order, the source first; the last may be unfinished."""
    return [artefact for _, artefact in run.stages()]


def finished(artefact: Artefact[Any]) -> bool:
    """Whether the stage published all of its chunks."""
    return artefacts.finished(artefact)


def finished_stages(run: RunDirectory) -> list[Artefact[Sample]]:
    """Return the artefacts of the finished stages in order, the source first."""
    return [artefact for artefact in stages(run) if finished(artefact)]


def relabels(run: RunDirectory) -> Iterator[Mapping[str, Any]]:
    """Yield all decisions that replaced a label."""
    for artefact in stages(run):
        for decision in artefact.decisions():
            if decision["action"] == "relabel":
                yield decision


def last_finished(run: RunDirectory) -> Artefact[Sample]:
    """Return the artefact of the last finished stage.

    Raises:
        StoreError: if the source was not read completely.
        DamageError: if a stage of the finished run is missing or was replaced.
    """
    if (run.path / MANIFEST).exists() and not ended(run):
        raise _other_stages(run)
    done = finished_stages(run)
    if not done:
        raise StoreError(
            f"{run.path}: its source was not read completely; run the same command again"
        )
    return done[-1]


def _other_stages(run: RunDirectory) -> StoreError:
    now = _fingerprints(run)
    known = manifest(run.path).get("fingerprints", {})
    first = next(name for name in {**known, **now} if known.get(name) != now.get(name))
    folder = f"00-{SOURCE}" if first == SOURCE else first
    return damaged(run.path / folder, "is not the artefact of the finished run", run.path)


def manifest(path: Path) -> dict[str, Any]:
    """Return manifest.json of a run or a group.

    Raises:
        DamageError: if it is missing or was changed.
    """
    return read_sealed(path / MANIFEST, path)


def ended(run: RunDirectory) -> bool:
    """Whether the run has ended, with cleaned.jsonl, dropped.jsonl and metrics.json of the present artefacts."""
    if not (run.path / MANIFEST).exists():
        return False
    known = manifest(run.path).get("fingerprints", {})
    return bool(_fingerprints(run) == known)


def _fingerprints(run: RunDirectory) -> dict[str, str | None]:
    """The fingerprint of each stage's artefact; None if it is not finished."""
    every: list[Artefact[Any]] = [*stages(run), *(artefact for _, artefact in run.token_stages())]
    return {
        label(artefact): artefact.fingerprint() if finished(artefact) else None
        for artefact in every
    }


def open_ended(path: Path) -> RunDirectory:
    """Return the run at ``path``, which has ended.

    Raises:
        StoreError: if there is no run, or it has not ended.
    """
    run = open_run(path)
    if not ended(run):
        raise StoreError(f"{path}: {not_ended(path)}")
    return run


def not_ended(path: Path) -> str:
    """Return what a message about the run ``path`` says if its results are not there."""
    process = other_process(path)
    if process is not None:
        return f"the run has not ended: process {process} is running in it; wait for it"
    return "the run has not ended; run the same command to resume it"


def refuse_replaced(run: RunDirectory, before: Mapping[str, Any]) -> None:
    """Refuse files that were read from a run, if another run in the directory replaced some of them since ``before``.

    Args:
        run: The run, which had ended.
        before: Its manifest before the files were read.

    Raises:
        StoreError: if it was replaced, or is being replaced.
    """
    if not ended(run) or manifest(run.path) != before:
        raise StoreError(
            f"{run.path}: another run replaced its files while they were read; wait until it has ended, and repeat this command"
        )


def locked_recipe(path: Path) -> dict[str, Any]:
    """Return the resolved recipe that the run ``path`` published in recipe.lock.yaml; empty if it published none.

    Raises:
        DamageError: if the file is missing or was changed.
    """
    import yaml

    file = published(path, LOCK)
    loaded = {} if file is None else yaml.safe_load(file.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def published(path: Path, name: str) -> Path | None:
    """Return the verified path of a file that the run ``path`` published; None if it published no such file.

    Raises:
        DamageError: if it is missing or was changed.
    """
    seal = seals_of(manifest(path).get("files")).get(name)
    if seal is None:
        return None
    check(path / name, seal, path)
    return path / name


def rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a JSON Lines file of the finished run ``path``; none if it has not ended.

    Raises:
        DamageError: if the file is missing or was changed.
    """
    file = published(path, name) if (path / MANIFEST).exists() else None
    return iter(()) if file is None else read_jsonl(file)


def tokens(run: RunDirectory) -> Path | None:
    """Return the folder of a run's tokens; None if it has none.

    Raises:
        DamageError: if the tokens of a finished run are missing or were changed.
    """
    folder = run.path / "tokens"
    if ended(run):
        return folder if published(run.path, "tokens/index.json") is not None else None
    return folder if has_tokens(folder) else None


def quarantined(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Return the unreadable rows of the source.

    Raises:
        DamageError: if the quarantine is missing or was changed.
    """
    source = run.stage(0, SOURCE)
    return source.rows_beside("quarantine.jsonl") if finished(source) else iter(())


def metrics_of(path: Path) -> dict[str, Any]:
    """Return metrics.json of a run or a group.

    Raises:
        StoreError: if the run has not ended, or there is no run.
        DamageError: if the file is missing or was changed.
    """
    file = path / "metrics.json"
    if not file.exists() and not (path / MANIFEST).exists():
        why = not_ended(path) if is_run(path) else "not a run"
        raise StoreError(f"{file}: does not exist; {why}")
    verified = published(path, file.name)
    if verified is None:
        raise damaged(file, "is not in the run's list of files", path)
    value: dict[str, Any] = read_json(verified)
    return value


def lines_about(path: Path, sample_id: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file that contain ``sample_id``; other lines are not decoded."""
    needle = json.dumps(sample_id, ensure_ascii=False)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if needle in line:
                yield json.loads(line)


def ids_of(artefact: Artefact[Sample]) -> Iterator[str]:
    """Yield all ids of an artefact in order."""
    return (sample_id for sample_id, _ in _lines_of(artefact))


def samples_of(artefact: Artefact[Sample], wanted: Collection[str]) -> Iterator[Sample]:
    """Yield the samples with ``wanted`` ids in order; of the others only the ids are read."""
    for sample_id, line in _lines_of(artefact):
        if sample_id in wanted:
            yield sample_from_json(json.loads(line))


def _lines_of(artefact: Artefact[Sample]) -> Iterator[tuple[str, str]]:
    """The id and the line of each sample of an artefact, in order."""
    decoder = json.JSONDecoder()
    start = '{"id": '
    for name, _ in artefact.chunk_files():
        with artefact.path(name).open(encoding="utf-8") as lines:
            for line in lines:
                # The store writes the id first; decoding only the id is many times faster.
                if line.startswith(start):
                    yield str(decoder.raw_decode(line, len(start))[0]), line
                else:
                    yield str(json.loads(line)["id"]), line


def has_verdicts(run_dir: Path) -> bool:
    """Whether a stage wrote verdicts, which ``nfilter audit`` needs.

    Checks only the first rows of the last finished stage; for a group, those of its first run.
    """
    run = first_run(run_dir)
    done = finished_stages(RunDirectory(run)) if is_run(run) else []
    rows = itertools.islice(done[-1].samples(), _CHECKED_ROWS) if done else ()
    return any(Verdict.last_of(sample) for sample in rows)
