"""report.html: one file without scripts, links or external resources."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfilter.api.durations import duration
from nfilter.api.ids import hash_of
from nfilter.api.notes import Verdict, is_number
from nfilter.report import reading, text
from nfilter.report.findings import findings, headline
from nfilter.report.histogram import histogram
from nfilter.report.token_page import token_page
from nfilter.store.files import publishing
from nfilter.store.run_directory import RunDirectory

PAGE = "report.html"
TEMPLATE = "report.html.jinja"
_EXAMPLES = 20
_CELL = 400


@dataclass
class _Content:
    """The stages, scores and examples of one run on the page."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    relabelled: list[dict[str, str]] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    scores: list[tuple[float, bool]] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)


def write_report(run_dir: Path, metrics: Mapping[str, Any]) -> Path:
    """Write RUN/report.html and return its path. For a group of seeds, examples come from the first seed.

    Text of the data and of models is escaped; control characters are shown as escape sequences.
    """
    run = reading.first_run(run_dir)
    content = _content(RunDirectory(run)) if reading.is_run(run) else _Content()
    page = _environment().get_template(TEMPLATE).render(
        title=text.plain(headline(run_dir, metrics)),
        sections=[
            {"title": text.plain(section.title), "lines": [(text.plain(a), text.plain(b)) for a, b in section.lines]}
            for section in findings(run_dir, metrics)
        ],
        warned=_warned(metrics),
        child=text.plain(run.name) if run != run_dir else None,
        content=content,
        chart=histogram(content.scores),
        tokens=token_page(RunDirectory(run)),
    )  # fmt: skip
    with publishing(run_dir / PAGE) as out:
        out.write(page)
    return run_dir / PAGE


def _warned(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The warnings of a run as pairs of stage and text; repeated ones with their count."""
    warnings = metrics.get("warnings")
    return [
        (
            text.plain(str(warning.get("stage") or "run")),
            text.plain(str(warning.get("text")))
            + (f" ({warning['times']} times)" if warning.get("times", 1) > 1 else ""),
        )
        for warning in (warnings if isinstance(warnings, list) else [])
    ]


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(run: RunDirectory) -> _Content:
    content = _Content(stages=_stages(run))
    dropped = list(_sampled(reading.rows(run.path, "dropped.jsonl"), content.totals, "dropped"))
    changed = list(_sampled(reading.relabels(run), content.totals, "relabelled"))
    unreadable: list[dict[str, Any]] = []
    for row in reading.quarantined(run):
        content.totals["unreadable"] = content.totals.get("unreadable", 0) + 1
        if len(unreadable) < _EXAMPLES:
            unreadable.append(row)
    rows = _example_rows(run, {row["id"] for row in (*dropped, *changed)}, content)
    relabelled = {row["id"] for row in changed}
    gone = {row["id"] for row in reading.rows(run.path, "dropped.jsonl") if row["id"] in relabelled}
    content.relabelled = [
        _cells(
            row,
            rows,
            before=row["before"],
            after=row["after"],
            end="dropped" if row["id"] in gone else "kept",
            stage=row["stage"],
            reason=row["reason"],
        )
        for row in changed
    ]
    content.dropped = [
        _cells(row, rows, stage=row["stage"], reason=row["reason"]) for row in dropped
    ]
    content.unreadable = [
        {name: text.cut(str(row[name]), most=_CELL) for name in ("line", "error", "raw")}
        for row in unreadable
    ]
    return content


def _cells(
    row: Mapping[str, Any], rows: Mapping[str, Mapping[str, str]], **texts: Any
) -> dict[str, str]:
    cells = rows.get(row["id"], {"question": "", "label": "", "score": ""})
    shown = {name: text.cut(str(value), most=_CELL) for name, value in texts.items()}
    return {"id": text.plain(row["id"]), **cells, **shown}


def _stages(run: RunDirectory) -> list[dict[str, Any]]:
    rows = []
    for artefact in reading.stages(run):
        if not reading.finished(artefact):
            rows.append({"name": reading.label(artefact), "note": "not finished"})
            continue
        done = artefact.summary()
        seconds = done.get("seconds")
        rows.append(
            {
                "name": text.plain(reading.label(artefact)),
                "note": "",
                "kept": text.number(done.get("kept", done.get("read", 0))),
                "dropped": text.number(done.get("dropped", 0)),
                "relabelled": text.number(done.get("changed", 0)),
                "seconds": duration(float(seconds), 1) if is_number(seconds) else "",
            }
        )
    return rows


def _sampled(
    rows: Iterable[Mapping[str, Any]], totals: dict[str, int], name: str
) -> list[Mapping[str, Any]]:
    """Examples chosen by a hash of the id, so that they are not only from the beginning of the file; also counts all rows."""

    def counted() -> Iterable[Mapping[str, Any]]:
        for row in rows:
            totals[name] = totals.get(name, 0) + 1
            yield row

    return heapq.nsmallest(_EXAMPLES, counted(), key=lambda row: hash_of(str(row["id"])))


def _example_rows(run: RunDirectory, ids: set[str], content: _Content) -> dict[str, dict[str, str]]:
    """Question, label and noise score of the examples by id; also adds all noise scores to ``content``."""
    done = reading.finished_stages(run)
    rows: dict[str, dict[str, str]] = {}
    if not done:
        return rows
    for sample in done[-1].samples():
        last = Verdict.last_of(sample)
        if last is not None:
            content.scores.append((float(last[1].noise_score), last[1].flagged))
        if sample.id in ids:
            rows[sample.id] = {
                "question": text.cut(sample.query, most=_CELL),
                "label": text.cut(sample.response, most=_CELL),
                "score": "" if last is None else f"{last[1].noise_score:.2f}",
            }
    return rows
