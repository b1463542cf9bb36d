"""How far a check's noise scores are the shares of wrong labels that they say; registered beside nfilter's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final

from nfilter import JSON, MetricInput, hookimpl
from nfilter.registry.loading import GROUP, Plugins, load

BINS: Final = 10


def calibration_error(
    wrong: Sequence[bool], scores: Sequence[float], bins: int = BINS
) -> float | None:
    """Expected calibration error in bins of equal width over [0, 1]; None of nothing.

    The mean over samples of |share wrong - mean score| of the sample's bin (Naeini et al., 2015); a score of
    exactly 1 is in the last bin.
    """
    if not scores:
        return None
    members: dict[int, list[int]] = {}
    for place, score in enumerate(scores):
        members.setdefault(min(int(score * bins), bins - 1), []).append(place)
    off = sum(
        abs(sum(wrong[i] for i in places) - math.fsum(scores[i] for i in places))
        for places in members.values()
    )
    return off / len(scores)


class Calibration:
    """``calibration``: by verdict note, the expected calibration error and the mean noise score beside the truth."""

    name: ClassVar[str] = "calibration"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        """Figures of every verdict whose samples have a known truth and a score."""
        found = {name: _figures(data, name) for name in data.verdicts}
        return {name: figures for name, figures in found.items() if figures is not None}


def _figures(data: MetricInput, name: str) -> dict[str, JSON] | None:
    wrong: list[bool] = []
    scores: list[float] = []
    for judged in data.judged:
        note: Any = judged.final.notes.get(name)
        score = note.get("noise_score") if isinstance(note, Mapping) else None
        if judged.label_was_right is None or not isinstance(score, int | float):
            continue
        wrong.append(not judged.label_was_right)
        scores.append(float(score))
    if not scores:
        return None
    return {
        "error": calibration_error(wrong, scores),
        "mean_score": math.fsum(scores) / len(scores),
        "n": len(scores),
    }


class Labels:
    """``labels``: the share of right labels among the rows that are left, verdict or none, and their number."""

    name: ClassVar[str] = "labels"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        """Nothing where no truth is known."""
        known = [
            judged.label_is_right
            for judged in data.judged
            if judged.final.dropped is None and judged.label_is_right is not None
        ]
        return {"right": sum(known) / len(known), "n": len(known)} if known else {}


@hookimpl
def nfilter_metrics() -> tuple[type, ...]:
    """Both."""
    return (Calibration, Labels)


def with_calibration() -> Plugins:
    """The catalogue with these metrics in it."""
    own = EntryPoint("evidence", __name__, GROUP)
    return load((*entry_points(group=GROUP), own))
