"""Where a figure stands in metrics.json, for one run or for a group of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

ARMS = ("vanilla", "raw", "cleaned", "truth")
RATIOS = ("recovered", "recovered_vanilla", "gain")
ESTIMATE = "estimated_noise_rate"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its mean over ``n`` seeds and their standard deviation (None for one seed).

    ``low`` and ``high`` bound a 95% interval where the figure has one of its own.
    """

    mean: float
    sd: float | None = None
    n: int = 1
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is known to lie between ``low`` and ``high`` and no closer; means over ``n`` seeds."""

    low: float
    high: float
    n: int = 1


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def lookup(metrics: Mapping[str, Any], dotted: str, *names: str) -> Any:
    """The value under ``a.b.c``, and under ``names`` that may have dots of their own; None where there is none."""
    value: Any = metrics
    for key in (*dotted.split("."), *names):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def figure(metrics: Mapping[str, Any], dotted: str, *names: str) -> Figure | None:
    """The figure under ``a.b.c`` (see ``lookup``), with its spread over seeds where the metrics are a group's."""
    value = lookup(metrics, dotted, *names)
    seeds = metrics.get("seeds") or [None]
    if isinstance(value, Mapping) and is_number(value.get("mean")):
        return Figure(value["mean"], value.get("sd"), int(value.get("n") or 1))
    if not is_number(value):
        return None
    spread = (metrics.get("spread") or {}).get(".".join((dotted, *names)))
    ends = lookup(metrics, f"comparisons.intervals.{dotted}") if dotted in RATIOS else None
    low, high = (ends["low"], ends["high"]) if isinstance(ends, Mapping) else (None, None)
    if isinstance(spread, Mapping):
        # A ratio of a group is made of means; the mean of its seeds' ratios would be another figure.
        return Figure(value, spread["sd"], int(spread["n"]), low, high)
    return Figure(value, None, len(seeds), low, high)


def reported(metrics: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """The last sample stage whose report has ``key``, and what it has there; None where no stage reports it."""
    stages = metrics.get("stages")
    for label, report in reversed(list(stages.items()) if isinstance(stages, Mapping) else []):
        if isinstance(report, Mapping) and report.get(key) is not None:
            return label, report[key]
    return None


def estimate(metrics: Mapping[str, Any]) -> Figure | Range | None:
    """The noise rate that the last stage to estimate one gave without the truth: a point with its interval, or a range."""
    said = reported(metrics, ESTIMATE)
    if said is None:
        return None
    found = figure(metrics, "stages", said[0], ESTIMATE, "estimate")
    if not isinstance(said[1], Mapping):
        return found
    low, high = said[1].get("low"), said[1].get("high")
    if not is_number(low) or not is_number(high):
        return found
    if found is None:
        return Range(float(low), float(high), len(metrics.get("seeds") or [None]))
    return Figure(found.mean, found.sd, found.n, float(low), float(high))


def narrowed(found: Figure | Range | None, checked: Figure | None) -> Figure | Range | None:
    """``found`` without what rows ``checked`` by hand rule out; where the two exclude each other, the check counts."""
    if checked is None or checked.low is None or checked.high is None:
        return found
    if not isinstance(found, Range):
        return checked
    low, high = max(found.low, checked.low), min(found.high, checked.high)
    if low > high:
        return checked
    return Figure(min(max(checked.mean, low), high), None, 1, low, high)


def true_rate(metrics: Mapping[str, Any]) -> Figure | None:
    """The share of labels that are wrong, where the truth is known."""
    right = figure(metrics, "relabel.labels_before")
    if right is not None:
        return Figure(1 - right.mean, right.sd, right.n)
    return figure(metrics, "detection.noise_rate")


def arms(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The arms that were evaluated, in the order in which people read them."""
    found = metrics.get("arms") or {}
    known = [name for name in ARMS if name in found]
    return [
        (name, found[name]) for name in (*known, *(name for name in found if name not in known))
    ]


def names_under(metrics: Mapping[str, Any], section: str) -> list[str]:
    """The dotted names of the single numbers in a section, in the order in which they stand."""
    value = metrics.get(section)
    if not isinstance(value, Mapping):
        return []
    return [
        f"{section}.{key}"
        for key, item in value.items()
        if is_number(item)
        or item is None
        or (isinstance(item, Mapping) and is_number(item.get("mean")))
    ]
