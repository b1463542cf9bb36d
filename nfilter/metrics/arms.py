"""The figures of a run's end: arms side by side, ``recovered`` and ``gain``, and what several seeds say together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter.api.types import JSON
from nfilter.metrics.intervals import Crossed

RATIOS: Final = (
    ("recovered", "cleaned_minus_raw", "truth_minus_raw"),
    ("recovered_vanilla", "vanilla_minus_raw", "truth_minus_raw"),
    ("gain", "cleaned_minus_vanilla", "truth_minus_vanilla"),
)
"""Each ratio, and the differences above and below its line."""
_DIFFERENCES: Final = (
    ("cleaned_minus_raw", "cleaned", "raw"),
    ("cleaned_minus_vanilla", "cleaned", "vanilla"),
    ("truth_minus_raw", "truth", "raw"),
    ("truth_minus_vanilla", "truth", "vanilla"),
    ("vanilla_minus_raw", "vanilla", "raw"),
)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """How one arm answered the test set: by test id, whether its answer was right; None where it gave none."""

    arm: str
    right: Mapping[str, bool]
    unanswered: int
    training: Mapping[str, JSON] | None = None

    @property
    def accuracy(self) -> float:
        """The share of the test set answered right."""
        return sum(self.right.values()) / len(self.right)


@dataclass(frozen=True, slots=True)
class _Table:
    """What some arms answered over the same seeds and rows, as mean squares; ``over`` says what varies in it."""

    crossed: Crossed
    over: tuple[str, ...]

    def difference(self, *weights: float) -> dict[str, JSON]:
        """The mean of a combination with its standard error and 95% interval, within the values it can have."""
        found = self.crossed.mean(*weights)
        most = sum(weight for weight in weights if weight > 0)
        least = sum(weight for weight in weights if weight < 0)
        return {
            "mean": found.value,
            "standard_error": found.error,
            "low": max(least, found.value - found.half),
            "high": min(most, found.value + found.half),
            "rows": self.crossed.rows,
            "seeds": self.crossed.seeds,
            "over": list(self.over),
        }


def _table(columns: Sequence[Sequence[ArmResult]]) -> _Table:
    """Arms (each a result a seed) over the rows that all of them were asked in every seed.

    Where seeds share fewer than two rows, each had a test set of its own: then their means are what varies.

    Raises:
        ValueError: when the arms of a seed have no row in common.
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
    """Mean over seeds (one here), its standard deviation, n of seeds; its standard error and 95% interval over rows."""
    found = _table([[result]]).difference(1.0)
    return {
        "mean": result.accuracy,
        "sd": None,
        "n": 1,
        **{key: found[key] for key in ("rows", "standard_error", "low", "high", "over")},
        "unanswered": result.unanswered / len(result.right),
        "training": result.training,
    }


def paired(a: ArmResult, b: ArmResult) -> dict[str, JSON]:
    """The mean of a - b over the rows both were asked, in one seed: see ``difference``."""
    return difference([(a, b)])


def difference(pairs: Sequence[tuple[ArmResult, ArmResult]]) -> dict[str, JSON]:
    """The mean of a - b over seeds (a pair each) and the rows of all: standard error, 95% interval, and ``over`` what.

    Seeds and rows are crossed random effects (see ``nfilter.metrics.intervals``); of one seed the interval covers rows alone.
    """
    return _table([[a for a, _ in pairs], [b for _, b in pairs]]).difference(1.0, -1.0)


def comparisons(results: Mapping[str, ArmResult]) -> dict[str, JSON]:
    """Those of one seed: see ``compared``."""
    return compared([results])


def compared(seeds: Sequence[Mapping[str, ArmResult]]) -> dict[str, JSON]:
    """``recovered``, ``recovered_vanilla`` and ``gain``, the paired differences they are made of, and ``intervals``.

    recovered = (cleaned - raw) / (truth - raw), the same for vanilla; gain = (cleaned - vanilla) / (truth -
    vanilla), of means over seeds. Each is None where its denominator is under three standard errors, or an arm is
    missing. ``intervals`` holds low and high of each (95%, Fieller), None where there is no ratio or no bound.
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
    named = [part.split("_minus_") for part in (above, below)]
    arms = sorted({arm for pair in named for arm in pair})
    table = _table([[seed[arm] for seed in seeds] for arm in arms])
    weights = [[float((arm == a) - (arm == b)) for arm in arms] for a, b in named]
    found = table.crossed.ratio(*weights)
    return None if found is None else {"low": found[0], "high": found[1]}


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
    """The metrics of several seeds as one: every figure's mean, and under ``spread`` its mean, sd and n.

    ``results`` are the answers of every arm by seed. Arms, differences, ``recovered`` and ``gain`` and their intervals
    are made from these: from metrics alone nobody can tell that all seeds answered the same rows.

    Raises:
        ValueError: when the children have arms, and there are not as many results.
    """
    spread: dict[str, Any] = {}
    merged: dict[str, Any] = _merge(list(children), (), spread)
    merged["seeds"] = list(seeds)
    merged["spread"] = spread
    arms = merged.get("arms") or {}
    if (arms or "comparisons" in merged) and len(results) != len(children):
        raise ValueError(f"{len(children)} seeds have arms, and {len(results)} have answers")
    for arm, figures in arms.items():
        found = _table([[result[arm] for result in results]]).difference(1.0)
        figures.update(_spread([child["arms"][arm]["mean"] for child in children]))
        figures.update(
            {key: found[key] for key in ("rows", "standard_error", "low", "high", "over")}
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
    first = values[0]
    if isinstance(first, Mapping):
        keys = [key for key in first if all(isinstance(v, Mapping) and key in v for v in values)]
        return {key: _merge([value[key] for value in values], (*path, key), spread) for key in keys}
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if numbers and len(numbers) == len(values):
        spread[".".join(path)] = _spread(numbers)
        return sum(numbers) / len(numbers)
    return first if all(value == first for value in values) else None
