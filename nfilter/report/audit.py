"""`nfilter audit`: draw rows to check by hand, and estimate precision, recall and noise rate from the answers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nfilter.api.errors import DamageError, StoreError
from nfilter.api.notes import Verdict
from nfilter.api.types import Sample
from nfilter.metrics.figures import Figure, Range, narrowed
from nfilter.metrics.figures import estimate as estimate_of
from nfilter.metrics.stratified import METHOD, Checked, Estimate, Estimates, estimate
from nfilter.report import reading, sheet, text
from nfilter.report.drawing import (
    Draw,
    Stratum,
    Unit,
    draw,
    extended,
    in_extended_order,
    in_random_order,
    reached,
)
from nfilter.report.rate import RECORD, rate_text
from nfilter.store.artefacts import Artefact
from nfilter.store.files import read_sealed, write_sealed
from nfilter.store.review import REVIEW, read_reviews
from nfilter.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import Console

SHEET = "audit.csv"
_COLUMNS = ("id", "question", "label")
_OPEN_COLUMNS = ("new_label", "reason")
_ROWS = 50
_IN_ORDER = f'{SHEET} from its first line, or `nfilter view`, Review, "drawn at random"'


@dataclass(frozen=True, slots=True)
class Audit:
    """The state of an audit: ``drawn`` until a row has an answer, then ``answered``, possibly only in part.

    ``narrowed`` combines the noise rates of the run's views and of the answers, once the run has ended. ``mistaken`` are
    checked rows that are flagged and have a right label; ``missed`` are not flagged and have a wrong one. ``decided`` rows were
    pinned by people before the draw, ``decided_wrong`` of them with a wrong label as given: no flag of the run is about them, so that they
    count in the noise rate alone.
    """

    run: str
    status: Literal["drawn", "answered"]
    sheet: str
    record: str
    population: int
    flagged: int
    drawn: int
    answered: int
    strata: Sequence[Mapping[str, Any]]
    estimates: Estimates | None
    mistaken: Sequence[str]
    missed: Sequence[str]
    notes: Sequence[str]
    narrowed: Figure | Range | None = None
    decided: int = 0
    decided_wrong: int = 0


def audit(
    run_dir: Path, *, n: int | None = None, seed: int | None = None, blind: bool = True
) -> Audit:
    """Draw ``n`` rows (default 50) into RUN/audit.csv, or read the answers from it and from review.jsonl.

    The sheet shows neither flag nor score. If ``blind``, it shows no new label and no reason either, because both reveal the
    flag. A sheet that has an answer is never overwritten; if ``n`` is more than were drawn, rows are added to it.

    Raises:
        StoreError: if no stage wrote verdicts, or the sheet has invalid answers (the message has the line numbers).
    """
    run = reading.open_run(run_dir)
    path = run.path / SHEET
    if path.is_file() and (sheet.has_answers(path) or _reviews_count(run)):
        result = _answered(run, path, n, seed)
        if n is None:
            return result
        _extend(run, path, n, seed)
        return _answered(run, path, n, seed)
    record = _draw(run, path, n=n or _ROWS, seed=seed or 0, blind=blind)
    write_sealed(run.path / RECORD, record)
    return _answered(run, path, n, seed)


def standing(run_dir: Path) -> Audit | None:
    """Return the audit as it stands, with rows that were reviewed as answers; None where no rows were drawn."""
    run = reading.open_run(run_dir)
    path = run.path / SHEET
    if not (run.path / RECORD).is_file() or not path.is_file():
        return None
    return _answered(run, path, None, None)


def drawn_rows(run_dir: Path) -> Draw:
    """Return the drawn rows in the order of the sheet; none where none were drawn."""
    path = run_dir / RECORD
    return _draw_of(read_sealed(path, run_dir)) if path.is_file() else Draw("", ())


def as_json(result: Audit) -> dict[str, Any]:
    """Return the audit as JSON values, in the form of audit.json."""
    return asdict(result)


class _Population:
    """The rows of the source with their last verdicts, read once when they are iterated, one chunk in memory at a time.

    Samples that stages made are left out, and rows that a person pinned: ``decided`` has by id whether their given label is right.

    Raises:
        StoreError: at the end, if there is no row or no verdict.
    """

    def __init__(self, run: RunDirectory, last: Artefact[Sample]) -> None:
        self.run, self.last = run, last
        self.decided: dict[str, bool] = {}
        self.size = self.flagged = 0

    def __iter__(self) -> Iterator[Unit]:
        reviews, verdicts = read_reviews(self.run.path), 0
        for sample in self.last.samples():
            if sample.parents:
                continue
            review = reviews.get(sample.id) if sample.pinned else None
            if review is not None and review.label_is_right is not None:
                self.decided[sample.id] = review.label_is_right
                continue
            found = Verdict.last_of(sample)
            verdict = found[1] if found is not None else None
            flagged, verdicts = verdict is not None and verdict.flagged, verdicts + bool(found)
            self.size, self.flagged = self.size + 1, self.flagged + flagged
            score = None if verdict is None else float(verdict.noise_score)
            yield Unit(sample.id, flagged=flagged, score=score)
        if self.decided and not self.size:
            raise StoreError(
                f"{self.run.path}: people decided about every row, so there is none to draw; read the decisions in {REVIEW}"
            )
        if not verdicts:
            raise StoreError(
                f"{self.run.path}: no stage wrote a verdict (a note with `flagged` and `noise_score`), so there is nothing to "
                "audit; add a stage that flags wrong labels under `samples:`"
            )


def _draw(run: RunDirectory, path: Path, *, n: int, seed: int, blind: bool) -> dict[str, Any]:
    last = reading.last_finished(run)
    population = _Population(run, last)
    strata = draw(population, n, seed)
    columns, rows = _sheet_rows(run, last, in_random_order(strata, seed).ids, blind=blind)
    sheet.write(path, columns, [[row.get(column, "") for column in columns] for row in rows])
    return {
        "status": "drawn",
        "seed": seed,
        "n": n,
        "blind": blind,
        "fingerprint": last.fingerprint() or "",
        "population": population.size,
        "flagged": population.flagged,
        "decided": len(population.decided),
        "decided_wrong": sum(not right for right in population.decided.values()),
        "strata": [asdict(stratum) for stratum in strata],
    }


def _extend(run: RunDirectory, path: Path, n: int | None, seed: int | None) -> None:
    """Draw further rows, ``n`` in all, and add them to the sheet; nothing if fewer are wanted, or another seed, or the run changed."""
    try:
        record = read_sealed(run.path / RECORD, run.path)
    except DamageError:
        return
    before = _draw_of(record)
    last = reading.last_finished(run)
    if n is None or n < len(before.ids) or seed not in (None, record["seed"]):
        return
    if record["fingerprint"] != (last.fingerprint() or ""):
        return
    if n > len(before.ids):
        known = [_stratum(value) for value in record["strata"]]
        first = record.get("n", len(before.ids))
        strata = extended(_Population(run, last), first, record["seed"], n, known)
        if strata is None:
            return
        after = in_extended_order(before, strata, record["seed"])
        drawn = {
            "strata": [asdict(stratum) for stratum in strata],
            "draw": after.name,
            "order": after.ids,
        }
        # Before the sheet: the same command adds lines that a killed process did not.
        write_sealed(run.path / RECORD, {**record, **drawn})
        before = after
    _, rows = _sheet_rows(run, last, before.ids, blind=record.get("blind", True))
    sheet.add(path, rows)


def _sheet_rows(
    run: RunDirectory, last: Artefact[Sample], order: Sequence[str], *, blind: bool
) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a sheet, and the cells of its rows by column."""
    wanted = set(order)
    rows = {
        sample.id: {"id": sample.id, "question": _question(sample), "label": sample.response}
        for sample in reading.samples_of(run.stage(0, reading.SOURCE), wanted)
    }
    columns: list[str] = [*_COLUMNS]
    if not blind:
        columns += _OPEN_COLUMNS
        reasons = _reasons(run, wanted)
        for sample in reading.samples_of(last, wanted):
            rows[sample.id] |= {
                "new_label": sample.response,
                "reason": reasons.get(sample.id, ""),
            }
    return [*columns, sheet.ANSWER], [rows[sample_id] for sample_id in order]


def _question(sample: Any) -> str:
    """The context of the response; roles are shown if it has several messages."""
    if len(sample.context) == 1:
        return str(sample.context[0].content)
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in sample.context)


def _reasons(run: RunDirectory, wanted: set[str]) -> dict[str, str]:
    """The last decision about each wanted row, with its reason."""
    reasons: dict[str, str] = {}
    for artefact in reading.stages(run):
        for decision in artefact.decisions():
            if decision["id"] in wanted and decision["reason"]:
                reasons[decision["id"]] = f"{decision['action']}: {decision['reason']}"
    return reasons


def _other_draw(
    record: Mapping[str, Any], path: Path, n: int | None, seed: int | None
) -> list[str]:
    """A note if the arguments differ from those of the draw, and how to draw again."""
    drawn = sum(len(stratum["drawn"]) for stratum in record["strata"])
    most = min(record["population"], n or 0)
    asked = [
        text
        for text, other in (
            (f"--n {n}", n not in (None, record.get("n", drawn)) and most != drawn),
            (f"--seed {seed}", seed not in (None, record["seed"])),
        )
        if other
    ]
    if not asked:
        return []
    kept = f"the sheet has answers, so it is kept: {drawn} rows with seed {record['seed']}"
    are = "is" if len(asked) == 1 else "are"
    return [f"{kept}; {' and '.join(asked)} {are} not used. Move {path.name} away to draw again"]


def _answered(run: RunDirectory, path: Path, n: int | None, seed: int | None) -> Audit:
    record_path = run.path / RECORD
    if not record_path.is_file():
        raise StoreError(
            f"{record_path}: is missing, and without it the answers in {path} cannot be used; restore it, or move "
            f"{path.name} away to draw again"
        )
    try:
        record = read_sealed(record_path, run.path)
    except DamageError as error:
        raise StoreError(
            f"{record_path}: {error.what}, and without it the answers in {path} cannot be used; restore it, or move "
            f"{path.name} away to draw again"
        ) from error
    right, notes = _counted(run, path, _draw_of(record))
    notes = [*_other_draw(record, path, n, seed), *notes]
    if record["fingerprint"] != (reading.last_finished(run).fingerprint() or ""):
        notes.append(
            f"the run has changed since the rows were drawn; the figures use the flags of that time. Move "
            f"{path.name} away to draw again"
        )
    result = _narrowed(run, _audit(run, record, right, notes))
    if not right:
        return result
    figures = as_json(result)
    by_stratum = figures.pop("strata")
    write_sealed(record_path, {**record, **figures, "by_stratum": by_stratum, "method": METHOD})
    return result


def _draw_of(record: Mapping[str, Any]) -> Draw:
    if "order" in record:
        return Draw(str(record["draw"]), tuple(record["order"]))
    return in_random_order([_stratum(value) for value in record["strata"]], record["seed"])


def _counted(run: RunDirectory, path: Path, drawn: Draw) -> tuple[dict[str, bool], Sequence[str]]:
    """By id, whether the label is right, for the answers that count; and notes on the others.

    Reviewed rows that were not drawn are left out: people choose them, so that they say nothing of the others.
    """
    written = sheet.answers(path, drawn.ids)
    reviewed, shown = _reviewed(run, drawn)
    answers = {**written, **reviewed}
    in_order = {*written, *shown}
    end = reached(drawn.ids, answers, in_order)
    head = drawn.ids[:end]
    notes = []
    if early := sum(name in answers for name in drawn.ids[end:]):
        notes.append(
            f"drawn rows that a person chose to review, and that do not count yet: {early}. The choice depends on what the rows are "
            f"like; they count once the rows before them have an answer. Answer in the random order: {_IN_ORDER}"
        )
    missing = len(drawn.ids) - len(answers)
    if missing and end:
        note = f"{missing} rows have no answer yet"
        if skipped := sum(name not in answers for name in head):
            note += (
                f", {skipped} of them before the last answered row: the estimates assume that such rows are like the others of their "
                "stratum"
            )
            if chosen := sum(name in answers and name not in in_order for name in head):
                note += f". The figures may be biased until these have an answer, because a person chose {chosen} of the answered rows"
        notes.append(note)
    return {name: answers[name] for name in head if name in answers}, notes


def _reviews_count(run: RunDirectory) -> bool:
    """Whether a decision about a drawn row counts, so that the draw is kept."""
    drawn = drawn_rows(run.path)
    return reached(drawn.ids, *_reviewed(run, drawn)) > 0


def _reviewed(run: RunDirectory, drawn: Draw) -> tuple[dict[str, bool], set[str]]:
    """Whether the label is right, by id, for drawn rows that were reviewed; and the rows that were shown in the order of the draw."""
    reviews = read_reviews(run.path)
    found = {name: reviews[name] for name in drawn.ids if name in reviews}
    right = {name: review.label_is_right for name, review in found.items()}
    return (
        {name: known for name, known in right.items() if known is not None},
        {name for name, review in found.items() if review.draw == drawn.name},
    )


def _narrowed(run: RunDirectory, result: Audit) -> Audit:
    """The audit with the combined noise rate, if the run's views give a range."""
    rate = result.estimates.noise_rate if result.estimates else None
    if rate is None or rate.value is None or not (run.path / reading.MANIFEST).exists():
        return result
    by_views = estimate_of(reading.metrics_of(run.path))
    if not isinstance(by_views, Range):
        return result
    return replace(
        result, narrowed=narrowed(by_views, Figure(rate.value, None, 1, rate.low, rate.high))
    )


def _stratum(value: Mapping[str, Any]) -> Stratum:
    return Stratum(**{**value, "drawn": tuple(value["drawn"])})


def _audit(
    run: RunDirectory, record: Mapping[str, Any], right: Mapping[str, bool], notes: Sequence[str]
) -> Audit:
    strata = [_stratum(value) for value in record["strata"]]
    checked = [
        Checked(
            stratum.flagged,
            stratum.size,
            sum(sample_id in right for sample_id in stratum.drawn),
            sum(right.get(sample_id) is False for sample_id in stratum.drawn),
        )
        for stratum in strata
    ]
    drawn = sum(len(stratum.drawn) for stratum in strata)
    decided, decided_wrong = record.get("decided", 0), record.get("decided_wrong", 0)
    all_notes = list(notes)
    if decided:
        all_notes.append(
            f"{decided} rows that people had decided about are not drawn: they count in the noise rate, and not in precision and recall"
        )
    return Audit(
        run=str(run.path),
        status="answered" if right else "drawn",
        sheet=str(run.path / SHEET),
        record=str(run.path / RECORD),
        population=record["population"],
        flagged=record["flagged"],
        drawn=drawn,
        answered=len(right),
        strata=[
            {
                "name": stratum.name, "size": stratum.size, "low": stratum.low, "high": stratum.high,
                "drawn": len(stratum.drawn), "checked": part.checked, "wrong": part.wrong,
            }
            for stratum, part in zip(strata, checked, strict=True)
        ],
        estimates=estimate(checked, record["seed"], known=(decided, decided_wrong)) if right else None,
        mistaken=_which(strata, right, flagged=True, is_right=True),
        missed=_which(strata, right, flagged=False, is_right=False),
        notes=all_notes,
        decided=decided,
        decided_wrong=decided_wrong,
    )  # fmt: skip


def _which(
    strata: Sequence[Stratum], right: Mapping[str, bool], *, flagged: bool, is_right: bool
) -> list[str]:
    return [
        sample_id
        for stratum in strata
        if stratum.flagged is flagged
        for sample_id in stratum.drawn
        if right.get(sample_id) is is_right
    ]


def render(result: Audit, console: Console) -> None:
    """Print how to fill in the sheet, or the estimates from its answers."""
    if result.estimates is None:
        text.heading(console, f"{result.drawn} rows to check are in {result.sheet}")
        text.rows(
            console,
            [
                (
                    "fill in",
                    f"the column {sheet.ANSWER}: y if the label is right, n if it is wrong; empty skips",
                ),
                ("then", f"nfilter audit {shlex.quote(result.run)}"),
                (
                    "drawn from",
                    f"{result.population:,} rows, {result.flagged:,} of them flagged; the sheet does not show which",
                ),
                *[("note", note) for note in result.notes],
            ],
        )
        return
    text.heading(
        console,
        f"{result.answered} of {result.drawn} drawn rows checked, of {result.population:,} in {result.run}",
    )
    estimates = result.estimates
    text.rows(
        console,
        [
            ("precision", _estimate_text(estimates.precision, "of the flagged labels are wrong")),
            ("recall", _estimate_text(estimates.recall, "of the wrong labels are flagged")),
            ("noise rate", _estimate_text(estimates.noise_rate, "of all labels are wrong")),
            *([("with the views", rate_text(result.narrowed))] if result.narrowed else []),
            ("flagged, but right", _ids(result.mistaken)),
            ("wrong, not flagged", _ids(result.missed)),
            *[("note", note) for note in result.notes],
            *_more(result),
            ("method", METHOD),
            ("in full", result.record),
        ],
    )


def _more(result: Audit) -> list[tuple[str, str]]:
    """How to check further rows, which narrow the intervals, once all drawn ones are checked."""
    if result.answered < result.drawn or result.drawn >= result.population:
        return []
    more = min(2 * result.drawn, result.population)
    command = f"nfilter audit {shlex.quote(result.run)} --n {more}"
    return [("narrower intervals", f"{command} adds {more - result.drawn} rows to the sheet")]


def _estimate_text(value: Estimate, what: str) -> str:
    if value.value is None or value.low is None or value.high is None:
        return f"unknown: {value.why}"
    return f"{text.percent(value.value)} {what} (95% interval {text.percent(value.low)} to {text.percent(value.high)})"


def _ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return ", ".join(ids[:8]) + more if ids else "none of the checked rows"
