"""Read figures from metrics.json, of one run or of a group of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nfilter.api.notes import is_number
from nfilter.recipe.sections import ARMS

RATIOS = ("recovered", "recovered_vanilla", "gain")
ESTIMATE = "estimated_noise_rate"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its mean over ``n`` seeds and their standard deviation (None for one seed).

    ``low`` and ``high`` are the bounds of its 95% interval, if it has one.
    """

    mean: float
    sd: float | None = None
    n: int = 1
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is only known to lie between ``low`` and ``high``; means over ``n`` seeds."""

    low: float
    high: float
    n: int = 1


def lookup(metrics: Mapping[str, Any], dotted: str, *names: str) -> Any:
    """Return the value at the path ``a.b.c``, followed by ``names``, which may contain dots; None if it is absent."""
    value: Any = metrics
    for key in (*dotted.split("."), *names):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def figure(metrics: Mapping[str, Any], dotted: str, *names: str) -> Figure | None:
    """Return the figure at ``a.b.c`` (see ``lookup``), with its spread over seeds in the metrics of a group."""
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
        # A group's ratio is the ratio of means, not the mean of the seeds' ratios.
        return Figure(value, spread["sd"], int(spread["n"]), low, high)
    return Figure(value, None, len(seeds), low, high)


def reported(metrics: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """Return the label of the last sample stage whose report has ``key``, and the value; None if no stage reports it."""
    stages = metrics.get("stages")
    for label, report in reversed(list(stages.items()) if isinstance(stages, Mapping) else []):
        if isinstance(report, Mapping) and report.get(key) is not None:
            return label, report[key]
    return None


def estimate(metrics: Mapping[str, Any]) -> Figure | Range | None:
    """Return the noise rate of the last stage that estimates one without the truth: a point with its interval, or a range."""
    last = reported(metrics, ESTIMATE)
    if last is None:
        return None
    point = figure(metrics, "stages", last[0], ESTIMATE, "estimate")
    if not isinstance(last[1], Mapping):
        return point
    low, high = last[1].get("low"), last[1].get("high")
    if not is_number(low) or not is_number(high):
        return point
    if point is None:
        return Range(float(low), float(high), len(metrics.get("seeds") or [None]))
    return Figure(point.mean, point.sd, point.n, float(low), float(high))


def narrowed(rate: Figure | Range | None, checked: Figure | None) -> Figure | Range | None:
    """Return ``rate`` restricted to the interval from rows ``checked`` by hand; if they are disjoint, ``checked``."""
    if checked is None or checked.low is None or checked.high is None:
        return rate
    if not isinstance(rate, Range):
        return checked
    low, high = max(rate.low, checked.low), min(rate.high, checked.high)
    if low > high:
        return checked
    return Figure(min(max(checked.mean, low), high), None, 1, low, high)


def true_rate(metrics: Mapping[str, Any]) -> Figure | None:
    """Return the share of wrong labels; None if the truth is unknown."""
    right = figure(metrics, "relabel.labels_before")
    if right is not None:
        return Figure(1 - right.mean, right.sd, right.n)
    return figure(metrics, "detection.noise_rate")


def arms(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the evaluated arms with their figures: first those of ``ARMS``, in that order."""
    evaluated = metrics.get("arms") or {}
    order = dict.fromkeys([*(name for name in ARMS if name in evaluated), *evaluated])
    return [(name, evaluated[name]) for name in order]


def names_under(metrics: Mapping[str, Any], section: str) -> list[str]:
    """Return the dotted names of the numbers in a section, in its order."""
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
