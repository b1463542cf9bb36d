"""`nfilter explain`: the history of one row from the source to its outcome."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter.api.errors import StoreError, did_you_mean
from nfilter.api.types import JSON, Sample
from nfilter.report import reading
from nfilter.report.calls import Call, calls_for
from nfilter.report.explanation import Event, Explanation, Status
from nfilter.report.story import print_story
from nfilter.report.tokens import as_json as tokens_as_json
from nfilter.report.tokens import cut_off, summary, tokens_of
from nfilter.store.artefacts import Artefact
from nfilter.store.run_directory import RunDirectory
from nfilter.store.samples import sample_from_json
from nfilter.store.truth import TRUTH

if TYPE_CHECKING:
    from rich.console import Console

_NEAR = 400
_LINE = "line:"


def explain(
    run_dir: Path,
    sample_id: str,
    *,
    show_truth: bool = False,
    show_tokens: bool = False,
    chunk: int | None = None,
) -> Explanation:
    """Return the recorded history of a row; an unreadable row is named ``line:N``.

    ``response_tokens`` are present if ``show_tokens`` is set and the row was encoded. ``chunk`` is the number of the row's chunk, if it
    is known; other chunks are then not read.

    Raises:
        StoreError: if ``run_dir`` is not a run, or has no such row; the message has the nearest id.
    """
    run = reading.open_run(run_dir)
    if sample_id.startswith(_LINE):
        quarantined = _quarantined(run, sample_id)
        if quarantined is not None:
            return quarantined
    steps = _steps(run, sample_id, chunk)
    if not steps:
        raise StoreError(_unknown(run, sample_id))
    journaled = calls_for(run.path / "journal.db", sample_id)
    events = _events(steps, journaled.calls)
    first, last = steps[0].sample, steps[-1].sample
    status, stage, reason = _outcome(run, sample_id, last, events)
    truth = _truth(run, sample_id) if show_truth else None
    gaps = [journaled.gap] if journaled.gap else []
    if show_truth and truth is None:
        gaps.append("the true label of this row is unknown")
    tokens = tokens_of(run, sample_id)
    if show_tokens and tokens is None:
        gaps.append("the row has no tokens, because it was not encoded in this run")
    if lost := cut_off(run, sample_id):
        gaps.append(f"{lost} tokens of its responses, truncated at encode.max_length")
    return Explanation(
        id=sample_id,
        run=str(run.path),
        status=status,
        stage=stage,
        reason=reason,
        messages=[[message.role, message.shown()] for message in first.context],
        # Names with an underscore are remarks of the source; null cells are those whose text is the conversation.
        columns={
            name: without_blanks(cell)
            for name, cell in first.meta.items()
            if cell is not None and not name.startswith("_")
        },
        label=_label(first),
        label_now=_label(last),
        rejected=None if first.rejected is None else first.rejected.shown(),
        weight=last.weight,
        pinned=last.pinned,
        parents=first.parents,
        children=[child for event in events for child in event.children],
        events=events,
        tokens=summary(tokens) if tokens is not None and status == "kept" else None,
        truth=truth,
        gaps=gaps,
        response_tokens=tokens if show_tokens else None,
    )


def without_blanks(cell: JSON) -> JSON:
    """Return a cell without null fields: their text is shown as the conversation."""
    if isinstance(cell, Mapping):
        return {key: without_blanks(value) for key, value in cell.items() if value is not None}
    if isinstance(cell, list | tuple):
        return [without_blanks(value) for value in cell]
    return cell


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return the explanation as JSON values, without truth, rejected response and tokens where there are none or they were not requested."""
    value = asdict(explanation)
    for name in ("truth", "rejected"):
        if value[name] is None:
            del value[name]
    if explanation.response_tokens is None:
        del value["response_tokens"]
    else:
        value["response_tokens"] = tokens_as_json(explanation.response_tokens)
    return value


def render(explanation: Explanation, console: Console, *, full: bool = False) -> None:
    """Print the history, one block per stage; long texts are shortened unless ``full``."""
    print_story(explanation, console, full=full)


@dataclass(frozen=True, slots=True)
class _Step:
    """The row as one stage published it, and the samples that the stage created from it."""

    artefact: Artefact[Sample]
    sample: Sample
    children: tuple[str, ...]
    decisions: Sequence[Mapping[str, Any]]


def _label(sample: Sample) -> str:
    """The response as text, including tool calls and reasoning."""
    answered = sample.messages[-1:] if sample.response or sample.calls_tools else ()
    return answered[0].shown() if answered else sample.response


def _steps(run: RunDirectory, sample_id: str, place: int | None) -> list[_Step]:
    """The row in the artefact of every stage that has it, in order."""
    steps: list[_Step] = []
    name: str | None = None
    for artefact in reading.stages(run):
        files = artefact.chunk_files()
        if place is not None and name is None:
            files = files[place : place + 1]
        # Every stage publishes the same chunks, so the row stays in the chunk with the number of its first one.
        for chunk, beside in files:
            step = _step(artefact, chunk, beside, sample_id) if name in (None, chunk) else None
            if step is not None:
                steps.append(step)
                name = chunk
                break
    return steps


def _step(artefact: Artefact[Sample], chunk: str, beside: str, sample_id: str) -> _Step | None:
    """The row in one chunk; ``beside`` is the file of the chunk's decisions. None if the chunk does not have it."""
    sample: Sample | None = None
    children = []
    for row in reading.lines_about(artefact.path(chunk), sample_id):
        if row["id"] == sample_id:
            sample = sample_from_json(row)
        elif sample_id in row["parents"]:
            children.append(str(row["id"]))
    if sample is None:
        return None
    about = reading.lines_about(artefact.path(beside), sample_id)
    decisions = [row for row in about if row["id"] == sample_id]
    return _Step(artefact, sample, tuple(children), decisions)


def _events(steps: Sequence[_Step], calls: Sequence[Call]) -> list[Event]:
    """The changes from step to step; a stage that the row did not reach has none."""
    events: list[Event] = []
    known: set[str] = set()
    was: Sample | None = None
    for step in steps:
        label = reading.label(step.artefact)
        now = step.sample
        created = [child for child in step.children if child not in known]
        known.update(created)
        if was is None and label == reading.SOURCE:
            was = now
            continue
        before = was or replace(now, notes={}, dropped=None)
        if before.dropped is None:
            events.append(_event(label, before, now, step.decisions, calls, created))
        was = now
    return events


def _event(
    label: str,
    was: Sample,
    now: Sample,
    decisions: Sequence[Mapping[str, Any]],
    calls: Sequence[Call],
    children: Sequence[str],
) -> Event:
    written = {
        key: note
        for key, note in now.notes.items()
        if key not in was.notes or was.notes[key] != note
    }
    relabelled = was.response != now.response
    weighed = was.weight != now.weight
    return Event(
        stage=label,
        notes=written,
        replaced={key: was.notes[key] for key in written if key in was.notes},
        label_before=was.response if relabelled else None,
        label_after=now.response if relabelled else None,
        weight_before=was.weight if weighed else None,
        weight_after=now.weight if weighed else None,
        decisions=[
            {key: item for key, item in row.items() if key not in ("id", "stage")}
            for row in decisions
        ],
        calls=[call for call in calls if call.stage == label],
        children=list(children),
    )


def _outcome(
    run: RunDirectory, sample_id: str, last: Sample, events: Sequence[Event]
) -> tuple[Status, str | None, str | None]:
    if last.dropped is not None:
        by = [
            event.stage
            for event in events
            if any(row["action"] == "drop" for row in event.decisions)
        ]
        return "dropped", by[-1] if by else None, last.dropped
    if not reading.ended(run):
        return "undecided", None, reading.not_ended(run.path)
    dropped = reading.published(run.path, "dropped.jsonl")
    if dropped is not None:
        for row in reading.lines_about(dropped, sample_id):
            if row["id"] == sample_id:
                return "dropped", str(row["stage"]), str(row["reason"])
    reasons = [str(row["reason"]) for event in events for row in event.decisions if row["reason"]]
    return "kept", None, reasons[-1] if reasons else "no stage made a decision about it"


def _truth(run: RunDirectory, sample_id: str) -> str | None:
    source = run.stage(0, reading.SOURCE)
    if not reading.finished(source):
        return None
    for row in reading.lines_about(source.path_beside(TRUTH), sample_id):
        if row["id"] == sample_id and "truth" in row:
            return str(row["truth"])
    return None


def _quarantined(run: RunDirectory, name: str) -> Explanation | None:
    wanted = name.removeprefix(_LINE).strip()
    # Rows of a JSON list may share a line.
    rows = [row for row in reading.quarantined(run) if str(row["line"]) == wanted]
    if not rows:
        return None
    return Explanation(
        id=name,
        run=str(run.path),
        status="unreadable",
        stage=reading.SOURCE,
        reason="; ".join(str(row["error"]) for row in rows),
        messages=[],
        columns={},
        label=None,
        label_now=None,
        weight=0.0,
        pinned=False,
        parents=[],
        children=[],
        events=[],
        raw="\n".join(str(row["raw"]) for row in rows),
    )


def _unknown(run: RunDirectory, sample_id: str) -> str:
    if sample_id.startswith(_LINE):
        lines = [f"{_LINE}{row['line']}" for row in reading.quarantined(run)]
        if not reading.finished(run.stage(0, reading.SOURCE)):
            return f"{run.path}: its source was not read completely; run the same command again"
        if not lines:
            return f"{run.path}: no row {sample_id!r}: every line of the source was readable"
        shown = ", ".join(lines[:8]) + (", ..." if len(lines) > 8 else "")
        return f"{run.path}: no unreadable row {sample_id!r}; quarantine.jsonl has {shown}"
    artefacts = reading.stages(run)
    # Stages create new samples, so the last artefact has ids that the source lacks.
    ids: set[str] = set()
    for artefact in (artefacts[0], artefacts[-1]):
        ids.update(nearest(sample_id, reading.ids_of(artefact)))
    hint = did_you_mean(sample_id, ids)
    return f"{run.path}: no row {sample_id!r}{hint or '; cleaned.jsonl and dropped.jsonl have the ids'}"


def nearest(wanted: str, ids: Iterable[str], most: int = _NEAR) -> list[str]:
    """Return at most ``most`` of ``ids``: those whose common prefix and suffix with ``wanted`` are longest.

    Edit distances to every id of a large run would take minutes; this reads each id once.
    """
    folded = wanted.casefold()
    backwards = folded[::-1]

    def shared(item: str) -> tuple[int, int]:
        other = item.casefold()
        both = _shared(folded, other) + _shared(backwards, other[::-1])
        return both, -abs(len(other) - len(folded))

    return heapq.nlargest(most, ids, key=shared)


def _shared(a: str, b: str) -> int:
    """The length of the common prefix of two texts."""
    return sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    )
