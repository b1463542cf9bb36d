"""Number of labels to flag in a ranking by noise score, from a budget or a target precision.

At low noise a vote flags mostly right labels: with 3% wrong labels, views that err on 10% contradict three right labels
per wrong label. The ranking by noise score is still accurate, so its first labels are flagged.

The precision of the first m of N labels is 1 - C(m) / m, where C(m) is the number of right labels among them. Trusted
rows have right labels; let fpr(m) be the share of them that score at least as high as the m-th label. Then

    C(m) = (1 - rho) N fpr(m)

where rho is the lower end of the noise rate's range, the conservative choice. Without trusted rows, C(m) is the sum of
1 - noise score, which is correct if label and views err independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfilter import JSON, is_number

Float64Array = npt.NDArray[np.float64]


def parse_share(value: object) -> object:
    """Convert ``"5%"`` to 0.05; return any other value for validation by the field's type.

    Raises:
        ValueError: If a string is not a percentage, or a number exceeds 1.
    """
    if isinstance(value, str):
        number = value.strip().removesuffix("%")
        try:
            share = float(number) / 100
        except ValueError:
            share = 0.0
        if not value.strip().endswith("%") or not 0 < share <= 1:
            raise ValueError(f"{value!r} is not a share of the labels; write 0.05 or 5%")
        return share
    if is_number(value) and value > 1:
        raise ValueError(f"{value} is more than all labels; write {value}% or {value / 100:g}")
    return value


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Number of ``flagged`` labels among ``ranked`` labels, and their expected ``precision``.

    ``trusted`` is the number of trusted rows that calibrate the precision; 0: it is based on the noise scores.
    """

    flagged: int
    ranked: int
    precision: float | None
    trusted: int = 0

    def to_json(self) -> dict[str, JSON]:
        """Return the figures for metrics.json."""
        expected = None if self.precision is None else round(self.precision, 6)
        return {
            "flagged": self.flagged,
            "ranked": self.ranked,
            "expected_precision": expected,
            "trusted": self.trusted,
        }


def choose_cutoff(
    scores: Sequence[float],
    right: Sequence[float],
    low: float,
    *,
    target: float | None = None,
    budget: int | None = None,
) -> Cutoff:
    """Choose the number of labels to flag.

    Args:
        scores: noise scores of the untrusted labels in descending order [N].
        right: noise scores of the trusted rows if they were untrusted [T]; may be empty.
        low: lower end of the noise rate's range.
        target: expected precision to reach; the largest cutoff that reaches it is chosen.
        budget: maximum number of flagged labels.
    """
    n = len(scores)
    if not n:
        return Cutoff(0, 0, None, len(right))
    expected = _precision(np.asarray(scores), np.sort(np.asarray(right)), low)
    if target is None:
        flagged = min(n, budget or 0)
    else:
        reached = np.flatnonzero(expected >= target - 1e-12)
        flagged = int(reached[-1]) + 1 if len(reached) else 0
    precision = float(expected[flagged - 1]) if flagged else None
    return Cutoff(flagged, n, precision, len(right))


def best_precision(scores: Sequence[float], right: Sequence[float], low: float) -> float:
    """Return the highest expected precision of any cutoff."""
    expected = _precision(np.asarray(scores), np.sort(np.asarray(right)), low)
    return float(expected.max()) if len(expected) else 0.0


def _precision(scores: Float64Array, right: Float64Array, low: float) -> Float64Array:
    """Return the expected precision of the first 1, 2, ... N labels [N]."""
    count = np.arange(1, len(scores) + 1)
    if not len(right):
        return np.asarray(np.cumsum(scores) / count)
    # Labels with equal scores are unordered: right labels are spread evenly among them.
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    above = len(right) - np.searchsorted(right, scores[ends], side="left")
    rate = (above + 1) / (len(right) + 2)
    correct = np.minimum((1 - low) * len(scores) * rate, ends + 1)
    return np.asarray(1 - np.interp(count, [0, *(ends + 1)], [0, *correct]) / count)
