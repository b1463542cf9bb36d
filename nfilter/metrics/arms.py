"""The figures of arms: accuracy, paired differences, ``recovered`` and ``gain``, of one run and of several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter.api.notes import is_number
from nfilter.api.types import JSON
from nfilter.metrics.intervals import Crossed

RATIOS: Final = (
    ("recovered", "cleaned_minus_raw", "truth_minus_raw"),
    ("recovered_vanilla", "vanilla_minus_raw", "truth_minus_raw"),
    ("gain", "cleaned_minus_vanilla", "truth_minus_vanilla"),
)
"""Each ratio with its numerator and its denominator, both differences between arms."""
_DIFFERENCES: Final = (
    ("cleaned_minus_raw", "cleaned", "raw"),
    ("cleaned_minus_vanilla", "cleaned", "vanilla"),
    ("truth_minus_raw", "truth", "raw"),
    ("truth_minus_vanilla", "truth", "vanilla"),
    ("vanilla_minus_raw", "vanilla", "raw"),
)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """The answers of one arm: by test id, whether its answer is right, and the number of rows without an answer."""

    arm: str
    right: Mapping[str, bool]
    unanswered: int
    training: Mapping[str, JSON] | None = None

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return sum(self.right.values()) / len(self.right)


@dataclass(frozen=True, slots=True)
class _Table:
    """The answers of some arms over the same seeds and rows, as mean squares; ``over`` names the random effects."""

    crossed: Crossed
    over: tuple[str, ...]

    def difference(self, *weights: float) -> dict[str, JSON]:
        """Return the mean of a linear combination of arms with its standard error and 95% interval, within possible values."""
        mean = self.crossed.mean(*weights)
        most = sum(weight for weight in weights if weight > 0)
        least = sum(weight for weight in weights if weight < 0)
        return {
            "mean": mean.value,
            "standard_error": mean.error,
            "low": max(least, mean.value - mean.half),
            "high": min(most, mean.value + mean.half),
            "rows": self.crossed.rows,
            "seeds": self.crossed.seeds,
            "over": list(self.over),
        }


def _table(columns: Sequence[Sequence[ArmResult]]) -> _Table:
    """The table of arms (each with one result per seed) over the rows that all arms answered in every seed.

    If seeds share fewer than two rows, each has its own test set, and the means of seeds are used instead.

    Raises:
        ValueError: if the arms of a seed have no row in common.
    """
    seeds = list(zip(*columns, strict=True))
    shared = [_common(arms) for arms in seeds]
    every = [key for key in shared[0] if all(key in keys for keys in map(set, shared))]
    if len(seeds) > 1 and len(every) < 2 < max(map(len, shared)):
        means = [
            [_share(arm, keys) for arm, keys in zip(column, shared, strict=True)]
            for column in columns
        ]
        rows = round(sum(map(len, shared)) / len(shared))
        return _Table(Crossed.of_means(means, rows), ("seeds with rows of their own",))
    values = [[[arm.right[key] for key in every] for arm in arms] for arms in columns]
    return _Table(Crossed.of(values), ("seeds", "rows") if len(seeds) > 1 else ("rows",))


def _share(arm: ArmResult, keys: Sequence[str]) -> float:
    return sum(arm.right[key] for key in keys) / len(keys)


def _common(arms: Sequence[ArmResult]) -> list[str]:
    return [key for key in arms[0].right if all(key in arm.right for arm in arms)]


def arm_figures(result: ArmResult) -> dict[str, JSON]:
    """Return the figures of an arm in one run: mean, sd over seeds (None), n (1), standard error and 95% interval over rows."""
    over_rows = _table([[result]]).difference(1.0)
    return {
        "mean": result.accuracy,
        "sd": None,
        "n": 1,
        **{key: over_rows[key] for key in ("rows", "standard_error", "low", "high", "over")},
        "unanswered": result.unanswered / len(result.right),
        "training": result.training,
    }


def paired(a: ArmResult, b: ArmResult) -> dict[str, JSON]:
    """Return the mean of a - b over the rows that both answered, in one seed; see ``difference``."""
    return difference([(a, b)])


def difference(pairs: Sequence[tuple[ArmResult, ArmResult]]) -> dict[str, JSON]:
    """Return the mean of a - b over seeds (one pair each) and shared rows, with standard error, 95% interval and ``over``.

    Seeds and rows are crossed random effects (see ``nfilter.metrics.intervals``); with one seed the interval covers only rows.
    """
    return _table([[a for a, _ in pairs], [b for _, b in pairs]]).difference(1.0, -1.0)


def comparisons(results: Mapping[str, ArmResult]) -> dict[str, JSON]:
    """Return the comparisons of one seed; see ``compared``."""
    return compared([results])


def compared(seeds: Sequence[Mapping[str, ArmResult]]) -> dict[str, JSON]:
    """Return ``recovered``, ``recovered_vanilla`` and ``gain``, the paired differences between arms, and ``intervals``.

    recovered = (cleaned - raw) / (truth - raw); recovered_vanilla has vanilla in place of cleaned; gain = (cleaned - vanilla) /
    (truth - vanilla); all of means over seeds. A ratio is None if its denominator is below three standard errors or an arm is
    missing. ``intervals`` has low and high of each (95%, Fieller); None without a ratio or without bounds.
    """
    out: dict[str, JSON] = {}
    for name, minuend, subtrahend in _DIFFERENCES:
        if all(minuend in seed and subtrahend in seed for seed in seeds):
            out[name] = difference([(seed[minuend], seed[subtrahend]) for seed in seeds])
    intervals: dict[str, JSON] = {}
    for name, above, below in RATIOS:
        out[name] = _ratio(out, above, below)
        intervals[name] = None if out[name] is None else _bounds(seeds, above, below)
    out["intervals"] = intervals
    return out


def _bounds(seeds: Sequence[Mapping[str, ArmResult]], above: str, below: str) -> JSON:
    """The 95% interval of the ratio of two differences; None if it is unbounded."""
    named = [part.split("_minus_") for part in (above, below)]
    arms = sorted({arm for pair in named for arm in pair})
    table = _table([[seed[arm] for seed in seeds] for arm in arms])
    weights = [[float((arm == a) - (arm == b)) for arm in arms] for a, b in named]
    ends = table.crossed.ratio(*weights)
    return None if ends is None else {"low": ends[0], "high": ends[1]}


def _ratio(differences: Mapping[str, Any], above: str, below: str) -> float | None:
    numerator, denominator = differences.get(above), differences.get(below)
    if not isinstance(numerator, Mapping) or not isinstance(denominator, Mapping):
        return None
    error = denominator["standard_error"]
    if error is None or denominator["mean"] <= 3 * error or denominator["mean"] <= 0:
        return None
    return float(numerator["mean"] / denominator["mean"])


def group(
    children: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    results: Sequence[Mapping[str, ArmResult]] = (),
) -> dict[str, Any]:
    """Merge the metrics of several seeds: every figure is its mean, and ``spread`` has its mean, sd and n.

    ``results`` are the answers of every arm by seed. Arms, differences, ``recovered``, ``gain`` and intervals are computed
    from them, because metrics alone do not show whether all seeds answered the same rows.

    Raises:
        ValueError: if the children have arms, and ``results`` has another number of seeds.
    """
    spread: dict[str, Any] = {}
    merged: dict[str, Any] = _merge(list(children), (), spread)
    merged["seeds"] = list(seeds)
    merged["spread"] = spread
    arms = merged.get("arms") or {}
    if (arms or "comparisons" in merged) and len(results) != len(children):
        raise ValueError(f"{len(children)} seeds have arms, and {len(results)} have answers")
    for arm, figures in arms.items():
        over_all = _table([[result[arm] for result in results]]).difference(1.0)
        figures.update(_spread([child["arms"][arm]["mean"] for child in children]))
        figures.update(
            {key: over_all[key] for key in ("rows", "standard_error", "low", "high", "over")}
        )
    if "comparisons" in merged:
        merged["comparisons"] = compared([{arm: result[arm] for arm in arms} for result in results])
        merged.update({name: merged["comparisons"][name] for name, _, _ in RATIOS})
    return merged


def _spread(values: Sequence[float]) -> dict[str, JSON]:
    return {
        "mean": sum(values) / len(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def _merge(values: list[Any], path: tuple[str, ...], spread: dict[str, Any]) -> Any:
    """Merge one JSON value of several seeds: means of numbers, equal other values, else None; fills ``spread``."""
    first = values[0]
    if isinstance(first, Mapping):
        keys = [key for key in first if all(isinstance(v, Mapping) and key in v for v in values)]
        return {key: _merge([value[key] for value in values], (*path, key), spread) for key in keys}
    numbers = [v for v in values if is_number(v)]
    if numbers and len(numbers) == len(values):
        spread[".".join(path)] = _spread(numbers)
        return sum(numbers) / len(numbers)
    return first if all(value == first for value in values) else None
