"""Cells into figures: means over seeds, paired intervals as the engine makes them, detection by rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.evidence.cells import Cells, arm_result
from benchmarks.evidence.lines import rule, rules
from benchmarks.evidence.plan import Plan
from nfilter.metrics.arms import ArmResult, compared, difference

DETECTION: Final = ("precision", "recall", "f1", "mcc", "average_precision", "roc_auc")
ASKING: Final = ("base", "reasoning")
MEASURED: Final = "robustft, measured"
FEWER: Final = "any(neighbors+reasoning), reasoning only where needed, measured"


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, its standard deviation (None of one seed) and n."""

    mean: float
    sd: float | None
    n: int

    @property
    def error(self) -> float:
        """The standard error between seeds; 0 where one seed says nothing of it."""
        return 0.0 if self.sd is None else self.sd / math.sqrt(self.n)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean, sd and n of the values that are there; None of none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), sd, len(known))


@dataclass(frozen=True)
class Line:
    """One line at one level: accuracy over seeds, and the engine's comparisons (None where an arm is missing)."""

    name: str
    accuracy: Spread
    vanilla: Mapping[str, Any] | None
    raw: Mapping[str, Any] | None
    recovered: float | None
    recovered_vanilla: float | None
    gain: float | None
    intervals: Mapping[str, Any]
    kept: Spread | None
    calls: Spread | None
    tokens: Spread | None
    steps: Spread | None
    labels_right: Spread | None


@dataclass(frozen=True)
class Difference:
    """The paired difference of two lines over the same seeds: mean, standard error, 95% interval."""

    mean: float
    error: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[ArmResult, ArmResult]]) -> Difference:
        """Of one pair a seed, as the engine makes it."""
        found: Mapping[str, Any] = difference(pairs)
        error = found["standard_error"]
        # One test row has no error: it tells nothing.
        error = math.inf if error is None else error
        return cls(found["mean"], error, found["low"], found["high"], len(pairs))


@dataclass(frozen=True)
class Rule:
    """One rule at one level. ``calls`` and ``tokens`` are a sample's, of its views alone."""

    name: str
    views: tuple[str, ...]
    vote: str
    figures: Mapping[str, Spread | None]
    calls: float
    tokens: float
    measured: float | None = None

    @property
    def f1(self) -> float | None:
        """The mean F1."""
        found = self.figures["f1"]
        return None if found is None else found.mean

    @property
    def whole(self) -> float:
        """Calls a sample of the whole pipeline: as measured, else the views' and two for each flagged sample."""
        if self.measured is not None:
            return self.measured
        flagged = self.figures["flagged"]
        return self.calls + (2 * flagged.mean if flagged else 0.0)


class Evidence:
    """The figures of a plan, from the cells that are there."""

    def __init__(self, plan: Plan, cells: Cells) -> None:
        self.plan = plan
        self.scope = plan.scope
        self.cells = cells
        self._read: dict[str, dict[str, Any] | None] = {}

    def cell(self, key: str) -> dict[str, Any] | None:
        """The figures of a cell, or None where it has not run."""
        if key not in self._read:
            self._read[key] = self.cells.get(key)
        return self._read[key]

    def made(self) -> list[dict[str, Any]]:
        """The figures of all planned cells that have run."""
        return [cell for planned in self.plan.cells if (cell := self.cell(planned.key))]

    def is_planned(self, line: str, noise: str, percent: int) -> bool:
        """Whether a line has a cell at this level, of any seed."""
        return any((line, noise, percent, seed) in self.plan.of for seed in self.scope.seeds)

    def of(self, line: str, noise: str, percent: int, seed: int) -> dict[str, Any] | None:
        """The figures of a line, level and seed."""
        key = self.plan.of.get((line, noise, percent, seed))
        return None if key is None else self.cell(key)

    def line(self, name: str, noise: str, percent: int) -> Line | None:
        """A line at one level over the seeds that have run; None where none has."""
        cells = {seed: self.of(name, noise, percent, seed) for seed in self.scope.seeds}
        found = {seed: cell for seed, cell in cells.items() if cell is not None}
        if not found:
            return None
        # vanilla is one run for all seeds
        values = list({cell["cell"]["key"]: cell for cell in found.values()}.values())
        plain = self._compared(found, noise, percent)
        return Line(
            name,
            _one_or(spread([cell["accuracy"] for cell in values]), name),
            plain.get("cleaned_minus_vanilla"),
            plain.get("cleaned_minus_raw"),
            plain.get("recovered"),
            plain.get("recovered_vanilla"),
            plain.get("gain"),
            plain.get("intervals") or {},
            spread([(cell.get("training") or {}).get("samples") for cell in values]),
            spread([cell.get("calls", {}).get("calls_per_sample") for cell in values]),
            spread([cell.get("calls", {}).get("tokens_per_sample") for cell in values]),
            spread([(cell.get("training") or {}).get("steps") for cell in values]),
            spread([cell.get("labels", {}).get("right") for cell in values]),
        )

    def _compared(
        self, found: Mapping[int, Mapping[str, Any]], noise: str, percent: int
    ) -> dict[str, Any]:
        """The line as ``cleaned`` beside vanilla, raw and truth of its seeds: the engine's own figures of a group."""
        seeds = []
        for seed, cell in found.items():
            others = {
                arm: self.of(arm, noise, percent, seed) for arm in ("vanilla", "raw", "truth")
            }
            results = {arm: arm_result(value, arm) for arm, value in others.items() if value}
            if len(results) == len(others):
                seeds.append({**results, "cleaned": arm_result(cell, "cleaned")})
        return compared(seeds) if seeds else {}

    def difference(self, one: str, other: str, noise: str, percent: int) -> Difference | None:
        """``one - other``, paired by test row and seed."""
        pairs = []
        for seed in self.scope.seeds:
            a, b = self.of(one, noise, percent, seed), self.of(other, noise, percent, seed)
            if a is not None and b is not None:
                pairs.append((arm_result(a, one), arm_result(b, other)))
        return Difference.of(pairs) if pairs else None

    def rules(self, noise: str, percent: int) -> list[Rule]:
        """Every rule at one level; none where no detection run is there."""
        found = self._level(self.plan.detection, noise, percent)
        out = [_rule(names, vote, found) for names, vote in rules()] if found else []
        for name, cells in (
            (MEASURED, [self.of("robustft", noise, percent, seed) for seed in self.scope.seeds]),
            (FEWER, self._level(self.plan.fewer, noise, percent)),
        ):
            known = [cell for cell in cells if cell is not None and "detection" in cell]
            if out and known:
                out.append(_pipeline(name, known))
        return out

    def _level(
        self, keys: Mapping[tuple[str, int, int], str], noise: str, percent: int
    ) -> list[dict[str, Any]]:
        named = [keys.get((noise, percent, seed)) for seed in self.scope.seeds]
        return [cell for key in named if key is not None and (cell := self.cell(key)) is not None]

    def truth_rate(self, noise: str, percent: int) -> Spread | None:
        """The share of labels that are wrong."""
        found = self._level(self.plan.detection, noise, percent)
        return spread([cell["detection"]["noise_rate"] for cell in found])

    def families(
        self, line: str, noise: str, percent: int, of: Mapping[str, str]
    ) -> dict[str, Spread]:
        """Accuracy by family of the test rows, over seeds."""
        by: dict[str, list[float | None]] = {}
        for seed in self.scope.seeds:
            cell = self.of(line, noise, percent, seed)
            if cell is None:
                continue
            for family in sorted(set(of.values())):
                right = [ok for name, ok in cell["right"].items() if of.get(name) == family]
                if right:
                    by.setdefault(family, []).append(sum(right) / len(right))
        return {family: made for family, values in by.items() if (made := spread(values))}

    def missing(self) -> tuple[list[str], dict[str, list[str]]]:
        """The cells that have not run, and by error those that failed."""
        lost: list[str] = []
        failed: dict[str, list[str]] = {}
        for cell in self.plan.cells:
            if self.cell(cell.key) is None:
                error = self.cells.error(cell.key)
                if error is None:
                    lost.append(cell.key)
                else:
                    # Its own folder would make every cell's error another one.
                    plain = error.replace(f"{self.cells.folder(cell.key)}/", "").splitlines()[0]
                    failed.setdefault(plain, []).append(cell.key)
        return lost, failed


def _one_or(found: Spread | None, name: str) -> Spread:
    if found is None:
        raise LookupError(f"a cell of {name} has no accuracy")
    return found


def _rule(names: tuple[str, ...], vote: str, cells: Sequence[Mapping[str, Any]]) -> Rule:
    name = rule(names, vote)
    notes = [cell["detection"]["by_note"][name] for cell in cells]
    estimates = [_estimate(cell.get("estimates", {}).get(name)) for cell in cells]
    figures = _detected(notes, [cell.get("calibration", {}).get(name, {}) for cell in cells])
    figures["estimate"] = spread(estimates)
    # The detection run asks for base first and reasoning second.
    starts = tuple(f"{ASKING.index(view) + 1:02d}-" for view in names if view in ASKING)
    return Rule(name, names, vote, figures, *_asked(cells, lambda stage: stage.startswith(starts)))


def _pipeline(name: str, cells: Sequence[Mapping[str, Any]]) -> Rule:
    """A recipe that ran to its end: its verdicts, and the calls that it made in all."""
    notes = [cell["detection"] for cell in cells]
    scores = [
        cell.get("calibration", {}).get(note["note"], {})
        for cell, note in zip(cells, notes, strict=True)
    ]
    figures = _detected(notes, scores)
    figures["estimate"] = spread([_estimate(cell.get("estimated_noise_rate")) for cell in cells])
    views = _asked(cells, lambda stage: stage.endswith(("robustft.answer", "robustft.reason")))
    measured = sum(cell["calls"]["calls_per_sample"] for cell in cells) / len(cells)
    return Rule(name, (), "", figures, *views, measured)


def _estimate(rate: Mapping[str, Any] | None) -> float | None:
    """The noise rate if label and views err independently: the check reports a range beside it."""
    found = rate or {}
    value: float | None = (found.get("if_independent") or found).get("estimate")
    return value


def _detected(
    notes: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]
) -> dict[str, Spread | None]:
    bounds = [(note.get("bound") or {}).get("f1") for note in notes]
    figures = {key: spread([note[key] for note in notes]) for key in (*DETECTION, "flagged")}
    figures["flag_all"] = spread([note["flag_all"]["f1"] for note in notes])
    figures["bound"] = spread(bounds)
    figures["of_bound"] = spread(
        [
            n["f1"] / b if b and n["f1"] is not None else None
            for n, b in zip(notes, bounds, strict=True)
        ]
    )
    figures["calibration"] = spread([score.get("error") for score in scores])
    return figures


def _asked(
    cells: Sequence[Mapping[str, Any]], counts: Callable[[str], bool]
) -> tuple[float, float]:
    """Calls and tokens a sample of the stages that count."""
    calls = tokens = 0.0
    for cell in cells:
        for stage, figures in cell["calls"]["by_stage"].items():
            if counts(stage):
                calls += figures["calls_per_sample"]
                tokens += figures["tokens_per_sample"]
    return calls / len(cells), tokens / len(cells)
