"""A run as a viewer reads it: figures, stages, every row in order, one row in full. Nothing here changes a run but `review`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nfilter.api.errors import DamageError, StoreError
from nfilter.api.notes import is_number
from nfilter.api.types import Sample
from nfilter.report import audit, explain, reading
from nfilter.report.audit import Audit
from nfilter.report.compare import Table, compare
from nfilter.report.drawing import Draw
from nfilter.store.artefacts import Artefact
from nfilter.store.files import digest, read_json
from nfilter.store.review import Review, append_reviews, read_reviews
from nfilter.store.truth import truth_of

Fate = Literal["kept", "dropped", "unreadable"]
_DEEPEST = 3
"""Levels of folders in which runs are looked for."""


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What one stage did to the rows. ``seconds`` is None where it is not known, ``kept`` where it has not finished."""

    label: str
    finished: bool
    kept: int | None = None
    dropped: int = 0
    relabelled: int = 0
    weighed: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of a run as it ended.

    Attributes:
        id: The row's id; ``line:N`` for a line of the source that could not be read.
        chunk: The number of its chunk, which ``RunReader.explain`` takes.
        sample: The sample as the last stage published it; None for an unreadable line.
        label: The label as the source had it; None for a sample that a stage made.
        fate: Whether the row is kept.
        stage: The stage that dropped it, else the last that changed it, else None.
        reason: Why.
        decisions: What all stages decided about it, in order: ``stage``, ``action``, ``reason``.
        truth: The true label; None where it is not known.
    """

    id: str
    chunk: int
    sample: Sample | None
    label: str | None
    fate: Fate
    stage: str | None
    reason: str
    decisions: Sequence[Mapping[str, Any]] = field(default_factory=list)
    truth: str | None = None


def find_runs(path: Path) -> list[Path]:
    """Return the folders of runs at ``path`` and up to three levels below it, by name; children of a group too.

    Raises:
        StoreError: when there is no such folder, or no run in it.
    """
    if not path.is_dir():
        raise StoreError(
            f"{path}: no such directory; name the directory of a run, or one that holds runs, like runs"
        )
    found = sorted(_runs(path, _DEEPEST))
    if not found:
        raise StoreError(
            f"{path}: no run in it; name the directory that `nfilter run` wrote, or one above it, like runs"
        )
    return found


def _runs(path: Path, deep: int) -> Iterator[Path]:
    if reading.is_run(path):
        yield path
        return
    if deep:
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                yield from _runs(child, deep - 1)


class RunReader:
    """Reads one run. Every method reads the disk anew, so that a run at work can be watched.

    Raises:
        StoreError: when ``path`` is no run. Methods raise DamageError where a file is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run = reading.open_run(path)

    def mark(self) -> str:
        """Return a text that changes when the rows of the run do."""
        known = reading.manifest(self.path) if self._has_manifest() else {}
        return digest(
            [[reading.label(each), each.fingerprint()] for each in self._finished()],
            known.get("files", {}).get("dropped.jsonl"),
        )

    def ended(self) -> bool:
        """Whether the figures are of the rows that are there now."""
        return reading.ended(self._run)

    def stages(self) -> list[StageFacts]:
        """Return what each sample stage did, the source first."""
        return [_facts(artefact) for artefact in reading.stages(self._run)]

    def token_stages(self) -> list[dict[str, Any]]:
        """Return the summaries of encoding and the token stages that are finished, each with its ``label``."""
        return [
            {"label": reading.label(artefact), **artefact.summary()}
            for _, artefact in self._run.token_stages()
            if reading.finished(artefact)
        ]

    def metrics(self) -> dict[str, Any]:
        """Return metrics.json; empty while the run has not ended."""
        return reading.metrics_of(self.path) if self._has_manifest() else {}

    def manifest(self) -> dict[str, Any]:
        """Return manifest.json; empty while the run has not ended."""
        return reading.manifest(self.path) if self._has_manifest() else {}

    def trainings(self) -> dict[str, dict[str, Any]]:
        """Return what each arm's trainer recorded (training.json), by arm."""
        found = sorted((self.path / "adapters").glob("*/training.json"))
        records = {file.parent.name: read_json(file) for file in found}
        return {arm: record for arm, record in records.items() if isinstance(record, dict)}

    def size(self) -> int:
        """Return the number of rows of the source, the unreadable ones included."""
        source = self._run.stage(0, reading.SOURCE)
        if not reading.finished(source):
            return 0
        done = source.summary()
        return int(done["read"]) + int(done["unreadable"])

    def outcomes(self) -> Iterator[list[Outcome]]:
        """Yield all rows in order, a chunk at a time; unreadable lines come last.

        Raises:
            StoreError: when the source was not read to its end.
        """
        artefacts = self._finished()
        if not artefacts:
            raise StoreError(
                f"{self.path}: its source was not read to the end; run the same command again"
            )
        at_encoding = self._dropped_at_encoding()
        truth = self._truth()
        source, last = artefacts[0], artefacts[-1]
        index = 0
        while last.has_chunk(index):
            labels = {sample.id: sample.response for sample in source.chunk(index)}
            decisions: dict[str, list[Mapping[str, Any]]] = {}
            for artefact in artefacts[1:]:
                for row in artefact.decisions_of(index):
                    decisions.setdefault(row["id"], []).append(row)
            yield [
                _outcome(sample, index, labels.get(sample.id), decisions.get(sample.id, []), at_encoding, truth)
                for sample in last.chunk(index)
            ]  # fmt: skip
            index += 1
        yield [_unreadable(row, index) for row in reading.quarantined(self._run)]

    def explain(
        self, row: str, *, chunk: int | None = None, tokens: bool = False
    ) -> dict[str, Any]:
        """Return everything on record about a row as JSON values, the true label included where it is known.

        Args:
            row: Its id.
            chunk: The number of its chunk, where it is known: the others are then not read.
            tokens: Whether to add ``response_tokens``.
        """
        found = explain.explain(self.path, row, show_truth=True, show_tokens=tokens, chunk=chunk)
        return explain.as_json(found)

    def reviews(self) -> dict[str, Review]:
        """Return the last decision of a person about each row, by id."""
        return read_reviews(self.path)

    def review(self, reviews: Sequence[Review]) -> None:
        """Append decisions to review.jsonl; the next `nfilter run` pins these rows."""
        append_reviews(self.path, reviews)

    def audit(self, n: int | None = None) -> Audit | None:
        """Return the audit as it stands; without one, draw ``n`` rows, or return None where ``n`` is None.

        Reviewed rows count as answers.
        """
        return audit.standing(self.path) if n is None else audit.audit(self.path, n=n)

    def drawn(self) -> Draw:
        """Return the rows that the audit drew, in the random order of its sheet; none without an audit."""
        return audit.drawn_rows(self.path)

    def answer_settings(self) -> dict[str, Any]:
        """Return the recipe's ``answer`` section as it was resolved; empty where the run has no lock.

        Raises:
            DamageError: if recipe.lock.yaml was changed after the run, or is not YAML.
        """
        import yaml

        from nfilter.store.seals import content, damaged

        if self._has_manifest():
            loaded: Any = reading.locked_recipe(self.path)
        else:
            file = self.path / reading.LOCK
            try:
                loaded = yaml.safe_load(content(file)) if file.exists() else {}
            except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
                raise damaged(
                    file, f"cannot be read ({type(error).__name__})", self.path
                ) from error
        found = loaded.get("answer") if isinstance(loaded, Mapping) else None
        return dict(found) if isinstance(found, Mapping) else {}

    def _has_manifest(self) -> bool:
        return (self.path / reading.MANIFEST).exists()

    def _finished(self) -> list[Artefact[Sample]]:
        """The artefacts up to the first that is not finished."""
        return list(itertools.takewhile(reading.finished, reading.stages(self._run)))

    def _dropped_at_encoding(self) -> dict[str, str]:
        if not self.ended():
            return {}
        rows = reading.rows(self.path, "dropped.jsonl")
        return {str(row["id"]): str(row["reason"]) for row in rows if row["stage"] == "encode"}

    def _truth(self) -> dict[str, str]:
        source = self._run.stage(0, reading.SOURCE)
        try:
            return truth_of(source)
        except DamageError:
            return {}


def compare_runs(paths: Sequence[Path]) -> Table:
    """Return the figures of several runs side by side, with what stands against comparing them."""
    return compare(paths)


def _facts(artefact: Artefact[Sample]) -> StageFacts:
    label = reading.label(artefact)
    if not reading.finished(artefact):
        return StageFacts(label, finished=False)
    done = artefact.summary()
    seconds = done.get("seconds")
    return StageFacts(
        label,
        finished=True,
        kept=int(done.get("kept", done.get("read", 0))),
        dropped=int(done.get("dropped", 0)),
        relabelled=int(done.get("changed", 0)),
        weighed=int(done.get("weighed", 0)),
        seconds=float(seconds) if is_number(seconds) else None,
    )


def _outcome(
    sample: Sample,
    chunk: int,
    label: str | None,
    decisions: Sequence[Mapping[str, Any]],
    at_encoding: Mapping[str, str],
    truth: Mapping[str, str],
) -> Outcome:
    reason = sample.dropped or at_encoding.get(sample.id)
    changes = [row for row in decisions if row["action"] != "keep"]
    last: Mapping[str, Any] = (changes or decisions or [{}])[-1]
    stage = last.get("stage") if changes else None
    if sample.dropped is None and reason is not None:
        stage = "encode"
    return Outcome(
        id=sample.id,
        chunk=chunk,
        sample=sample,
        label=label,
        fate="kept" if reason is None else "dropped",
        stage=stage,
        reason=reason if reason is not None else str(last.get("reason") or ""),
        decisions=decisions,
        truth=truth.get(sample.id),
    )


def _unreadable(row: Mapping[str, Any], chunk: int) -> Outcome:
    return Outcome(
        id=f"line:{row['line']}",
        chunk=chunk,
        sample=None,
        label=str(row["raw"]),
        fate="unreadable",
        stage=reading.SOURCE,
        reason=str(row["error"]),
    )
