"""The figures of a run's end: arms side by side, ``recovered`` and ``gain``, and what several seeds say together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfilter.types import JSON


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


def arm_figures(result: ArmResult) -> dict[str, JSON]:
    """Mean over seeds (one here), its standard deviation, n of seeds; beside them rows and their standard error."""
    rows = len(result.right)
    mean = result.accuracy
    return {
        "mean": mean,
        "sd": None,
        "n": 1,
        "rows": rows,
        "standard_error": math.sqrt(mean * (1 - mean) / rows),
        "unanswered": result.unanswered / rows,
        "training": result.training,
    }


def paired(a: ArmResult, b: ArmResult) -> dict[str, JSON]:
    """The mean of a - b over the rows both answered, with its standard error and 95% interval (paired, normal)."""
    ids = [key for key in a.right if key in b.right]
    differences = [int(a.right[key]) - int(b.right[key]) for key in ids]
    mean = sum(differences) / len(differences)
    error = statistics.stdev(differences) / math.sqrt(len(ids)) if len(ids) > 1 else 0.0
    return {
        "mean": mean,
        "standard_error": error,
        "low": mean - 1.96 * error,
        "high": mean + 1.96 * error,
        "rows": len(ids),
    }


def comparisons(results: Mapping[str, ArmResult]) -> dict[str, JSON]:
    """``recovered``, ``recovered_vanilla`` and ``gain``, and the paired differences they are made of.

    recovered = (cleaned - raw) / (truth - raw), the same for vanilla; gain = (cleaned - vanilla) / (truth -
    vanilla). Each is None where its denominator is under three standard errors, or an arm is missing.
    """
    out: dict[str, JSON] = {}
    for name, minuend, subtrahend in (
        ("cleaned_minus_raw", "cleaned", "raw"),
        ("cleaned_minus_vanilla", "cleaned", "vanilla"),
        ("truth_minus_raw", "truth", "raw"),
        ("truth_minus_vanilla", "truth", "vanilla"),
        ("vanilla_minus_raw", "vanilla", "raw"),
    ):
        if minuend in results and subtrahend in results:
            out[name] = paired(results[minuend], results[subtrahend])
    out["recovered"] = _ratio(out, "cleaned_minus_raw", "truth_minus_raw")
    out["recovered_vanilla"] = _ratio(out, "vanilla_minus_raw", "truth_minus_raw")
    out["gain"] = _ratio(out, "cleaned_minus_vanilla", "truth_minus_vanilla")
    return out


def _ratio(differences: Mapping[str, Any], above: str, below: str) -> float | None:
    numerator, denominator = differences.get(above), differences.get(below)
    if not isinstance(numerator, Mapping) or not isinstance(denominator, Mapping):
        return None
    error = denominator["standard_error"]
    if error is None or denominator["mean"] <= 3 * error or denominator["mean"] <= 0:
        return None
    return float(numerator["mean"] / denominator["mean"])


def group(children: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """The metrics of several seeds as one: every figure's mean, and under ``spread`` its mean, sd and n.

    ``recovered`` and ``gain`` are made from the means of the arms; a denominator's standard error is the larger of
    that between seeds and that between rows.
    """
    spread: dict[str, Any] = {}
    merged: dict[str, Any] = _merge(list(children), (), spread)
    merged["seeds"] = list(seeds)
    merged["spread"] = spread
    for arm, figures in (merged.get("arms") or {}).items():
        values = [child["arms"][arm]["mean"] for child in children]
        figures.update(_spread(values))
    compared = merged.get("comparisons")
    if isinstance(compared, dict):
        for name, difference in compared.items():
            if isinstance(difference, dict) and name in children[0]["comparisons"]:
                _between_seeds(difference, [child["comparisons"][name] for child in children])
        for key, above, below in (
            ("recovered", "cleaned_minus_raw", "truth_minus_raw"),
            ("recovered_vanilla", "vanilla_minus_raw", "truth_minus_raw"),
            ("gain", "cleaned_minus_vanilla", "truth_minus_vanilla"),
        ):
            merged[key] = compared[key] = _ratio(compared, above, below)
    return merged


def _between_seeds(difference: dict[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
    means = [part["mean"] for part in parts]
    n = len(means)
    between = statistics.stdev(means) / math.sqrt(n) if n > 1 else 0.0
    within = math.sqrt(sum(part["standard_error"] ** 2 for part in parts)) / n
    error = max(between, within)
    mean = sum(means) / n
    difference.update(
        mean=mean, standard_error=error, low=mean - 1.96 * error, high=mean + 1.96 * error, seeds=n
    )


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
