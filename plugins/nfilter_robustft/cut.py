"""How many labels of a ranking by noise score are flagged: as many as a budget allows, or as a precision does.

At low noise a vote flags mostly right labels: with 3% wrong labels, views that err on 10% contradict three right ones for
each wrong one. The order of the noise scores is good all the same, so the first labels of the ranking are flagged.

The precision of the first m of N labels is 1 - C(m) / m, where C(m) is how many of them are right. Trusted rows are
right labels, so the share of them that scores at least as high as the m-th label, fpr(m), gives

    C(m) = (1 - rho) N fpr(m)

with rho the lower end of the noise rate's range, which is the careful one. Without trusted rows C(m) is the sum of 1 -
noise score, which is right as far as label and views err independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfilter import JSON

Float64Array = npt.NDArray[np.float64]


def share(value: object) -> object:
    """``"5%"`` as 0.05; anything else is left to the field's own type.

    Raises:
        ValueError: where a text is no percentage, or a number over 1 may be one.
    """
    if isinstance(value, str):
        number = value.strip().removesuffix("%")
        try:
            found = float(number) / 100
        except ValueError:
            found = 0.0
        if not value.strip().endswith("%") or not 0 < found <= 1:
            raise ValueError(f"{value!r} is no share of the labels; write 0.05 or 5%")
        return found
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 1:
        raise ValueError(f"{value} is more than all labels; write {value}% or {value / 100:g}")
    return value


@dataclass(frozen=True, slots=True)
class Cut:
    """The first ``flagged`` of ``ranked`` labels are flagged, ``precision`` of which are expected to be wrong.

    ``trusted`` rows calibrated that; 0 means that it rests on the noise scores.
    """

    flagged: int
    ranked: int
    precision: float | None
    trusted: int = 0

    def to_json(self) -> dict[str, JSON]:
        """The figure as metrics.json has it."""
        expected = None if self.precision is None else round(self.precision, 6)
        return {
            "flagged": self.flagged,
            "ranked": self.ranked,
            "expected_precision": expected,
            "trusted": self.trusted,
        }


def cut(
    scores: Sequence[float],
    right: Sequence[float],
    low: float,
    *,
    target: float | None = None,
    budget: int | None = None,
) -> Cut:
    """Cut the ranking.

    Args:
        scores: noise scores of all labels that may be flagged, the highest first [N].
        right: what trusted rows would score if they were not trusted [T]; may be empty.
        low: lower end of the noise rate's range.
        target: the precision to reach; the largest cut that is expected to reach it is taken.
        budget: how many labels are flagged at most.
    """
    n = len(scores)
    if not n:
        return Cut(0, 0, None, len(right))
    expected = _precision(np.asarray(scores), np.sort(np.asarray(right)), low)
    if target is None:
        flagged = min(n, budget or 0)
    else:
        reached = np.flatnonzero(expected >= target - 1e-12)
        flagged = int(reached[-1]) + 1 if len(reached) else 0
    precision = float(expected[flagged - 1]) if flagged else None
    return Cut(flagged, n, precision, len(right))


def best(scores: Sequence[float], right: Sequence[float], low: float) -> float:
    """The highest precision that any cut is expected to have."""
    found = _precision(np.asarray(scores), np.sort(np.asarray(right)), low)
    return float(found.max()) if len(found) else 0.0


def _precision(scores: Float64Array, right: Float64Array, low: float) -> Float64Array:
    """The expected precision of the first 1, 2, ... N labels [N]."""
    count = np.arange(1, len(scores) + 1)
    if not len(right):
        return np.asarray(np.cumsum(scores) / count)
    # Labels with one score are in no order: right ones are spread over them evenly.
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    above = len(right) - np.searchsorted(right, scores[ends], side="left")
    rate = (above + 1) / (len(right) + 2)
    correct = np.minimum((1 - low) * len(scores) * rate, ends + 1)
    return np.asarray(1 - np.interp(count, [0, *(ends + 1)], [0, *correct]) / count)
