"""Reading run directories: which stages published what, and whether the figures are of these artefacts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter.api.errors import StoreError

if TYPE_CHECKING:
    from nfilter.api.types import Sample
    from nfilter.store.artefacts import Artefact
    from nfilter.store.run_directory import RunDirectory

SOURCE = "source"
MANIFEST = "manifest.json"
_LOOKED_AT = 2000


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
    from nfilter.store.run_directory import RunDirectory

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


def label(artefact: Artefact[Any]) -> str:
    """The name of a stage in its run: number and stage, as the decisions and the journal have it."""
    name = artefact.directory.name
    return SOURCE if name == f"00-{SOURCE}" else name


def stages(run: RunDirectory) -> list[Artefact[Sample]]:
    """All artefacts in order, the source first; the last may be unfinished."""
    return [artefact for _, artefact in run.stages()]


def finished(artefact: Artefact[Any]) -> bool:
    """Whether the stage published all of its chunks."""
    from nfilter.store import artefacts

    return artefacts.finished(artefact)


def last_finished(run: RunDirectory) -> Artefact[Sample]:
    """The artefact of the last finished stage.

    Raises:
        StoreError: when not even the source was read to its end.
        DamageError: when a stage that the run ended with is gone, or is another one.
    """
    if (run.path / MANIFEST).exists() and not ended(run):
        raise _other_stages(run)
    done = [artefact for artefact in stages(run) if finished(artefact)]
    if not done:
        raise StoreError(
            f"{run.path}: its source was not read to the end; run the same command again"
        )
    return done[-1]


def _other_stages(run: RunDirectory) -> StoreError:
    from nfilter.store.seals import damaged

    now = _fingerprints(run)
    known = manifest(run.path).get("fingerprints", {})
    first = next(name for name in {**known, **now} if known.get(name) != now.get(name))
    folder = f"00-{SOURCE}" if first == SOURCE else first
    return damaged(run.path / folder, "is not what the run ended with", run.path)


def manifest(path: Path) -> dict[str, Any]:
    """What manifest.json of a run or of a group holds.

    Raises:
        DamageError: when it is gone or is not what was written.
    """
    from nfilter.store.files import read_sealed

    return read_sealed(path / MANIFEST, path)


def ended(run: RunDirectory) -> bool:
    """Whether cleaned.jsonl, dropped.jsonl and metrics.json are of the artefacts that are there now."""
    if not (run.path / MANIFEST).exists():
        return False
    known = manifest(run.path).get("fingerprints", {})
    return bool(_fingerprints(run) == known)


def _fingerprints(run: RunDirectory) -> dict[str, str | None]:
    """By stage, what its artefact is of; None where it is not finished."""
    every: list[Artefact[Any]] = [*stages(run), *(artefact for _, artefact in run.token_stages())]
    return {
        label(artefact): artefact.fingerprint() if finished(artefact) else None
        for artefact in every
    }


def published(path: Path, name: str) -> Path | None:
    """Where a file lies that the run ``path`` ended with, after a look at it; None where it ended without such a file.

    Raises:
        DamageError: when it is gone or is not what was written.
    """
    from nfilter.store.files import seals_of
    from nfilter.store.seals import check

    seal = seals_of(manifest(path).get("files")).get(name)
    if seal is None:
        return None
    check(path / name, seal, path)
    return path / name


def rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file that the run ``path`` ended with, if it has ended. Raises DamageError."""
    from nfilter.store.files import read_jsonl

    file = published(path, name) if (path / MANIFEST).exists() else None
    return iter(()) if file is None else read_jsonl(file)


def tokens(run: RunDirectory) -> Path | None:
    """Where the tokens of a run are; None where it has none. Raises DamageError where they are gone."""
    from nfilter.store.tokens import has_tokens

    folder = run.path / "tokens"
    if ended(run):
        return folder if published(run.path, "tokens/index.json") is not None else None
    return folder if has_tokens(folder) else None


def quarantined(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """The rows of the source that could not be read. Raises DamageError."""
    source = run.stage(0, SOURCE)
    return source.rows_beside("quarantine.jsonl") if finished(source) else iter(())


def metrics_of(path: Path) -> dict[str, Any]:
    """What metrics.json of a run or of a group holds.

    Raises:
        StoreError: when it is not there.
        DamageError: when it is not what was written.
    """
    from nfilter.store.files import read_json
    from nfilter.store.seals import damaged

    file = path / "metrics.json"
    if not file.exists() and not (path / MANIFEST).exists():
        why = (
            "the run has not ended; run the same command again"
            if (path / f"00-{SOURCE}").is_dir()
            else "not a run"
        )
        raise StoreError(f"{file}: not there; {why}")
    found = published(path, file.name)
    if found is None:
        raise damaged(file, "is not among the files that the run ended with", path)
    value: dict[str, Any] = read_json(found)
    return value


def lines_about(path: Path, sample_id: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file in which ``sample_id`` occurs somewhere; the rest are not even decoded."""
    needle = json.dumps(sample_id, ensure_ascii=False)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if needle in line:
                yield json.loads(line)


def ids_of(artefact: Artefact[Sample]) -> Iterator[str]:
    """All ids of an artefact in order."""
    decoder = json.JSONDecoder()
    start = '{"id": '
    for name, _ in artefact.pairs():
        with artefact.path(name).open(encoding="utf-8") as lines:
            for line in lines:
                # The id comes first in what the store writes; decoding it alone is many times faster.
                if line.startswith(start):
                    yield str(decoder.raw_decode(line, len(start))[0])
                else:
                    yield str(json.loads(line)["id"])


def has_verdicts(run_dir: Path) -> bool:
    """Whether a stage said of rows whether their label is wrong, so that ``nfilter audit`` has something to check.

    Looks at the first rows of the last finished stage; of a group, at its first child.
    """
    from nfilter.api.notes import Verdict
    from nfilter.store.run_directory import RunDirectory

    run = next(iter(children_of(run_dir)), run_dir)
    if not (run / f"00-{SOURCE}").is_dir():
        return False
    done = [artefact for artefact in stages(RunDirectory(run)) if finished(artefact)]
    if not done:
        return False
    return any(
        Verdict.last_of(sample) for sample in itertools.islice(done[-1].samples(), _LOOKED_AT)
    )
