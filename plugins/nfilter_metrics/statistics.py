"""Statistics of binary classification. Undefined values are None, never NaN or a conventional number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def ratio(k: float, n: float) -> float | None:
    """Return ``k / n``, or None if ``n`` is 0."""
    return k / n if n else None


@dataclass(frozen=True, slots=True)
class Counts:
    """Confusion matrix of flags against wrong labels."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, positive: Sequence[bool], flagged: Sequence[bool]) -> Counts:
        """Count two sequences of equal length."""
        pairs = list(zip(positive, flagged, strict=True))
        return cls(
            tp=sum(p and f for p, f in pairs),
            fp=sum(not p and f for p, f in pairs),
            fn=sum(p and not f for p, f in pairs),
            tn=sum(not p and not f for p, f in pairs),
        )

    @property
    def precision(self) -> float | None:
        """Share of flagged labels that are wrong; None if nothing is flagged."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of wrong labels that are flagged; None if no label is wrong."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if no label is wrong."""
        if not self.tp + self.fn:
            return None
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> float | None:
        """Matthews correlation coefficient; None if a row or column is empty."""
        return mcc(self)


def mcc(counts: Counts) -> float | None:
    """Return the Matthews correlation coefficient, or None if a row or column is empty."""
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(square) if square else None


def roc_auc(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the area under the ROC curve by ranks (Mann and Whitney), or None without both classes.

    Tied scores share their mean rank.
    """
    pairs = sorted(zip(scores, positive, strict=True))
    n = len(pairs)
    wrong = sum(p for _, p in pairs)
    if wrong in (0, n):
        return None
    ranks = 0.0
    start = 0
    while start < n:
        end = start
        while end < n and pairs[end][0] == pairs[start][0]:
            end += 1
        mean_rank = (start + 1 + end) / 2
        ranks += mean_rank * sum(p for _, p in pairs[start:end])
        start = end
    return (ranks - wrong * (wrong + 1) / 2) / (wrong * (n - wrong))


def average_precision(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the average precision with equal scores as one threshold, or None without positives."""
    pairs = sorted(zip(scores, positive, strict=True), key=lambda pair: -pair[0])
    wrong = sum(p for _, p in pairs)
    if not wrong:
        return None
    total, hits, start = 0.0, 0, 0
    while start < len(pairs):
        end, before = start, hits
        while end < len(pairs) and pairs[end][0] == pairs[start][0]:
            hits += pairs[end][1]
            end += 1
        total += (hits - before) / wrong * (hits / end)
        start = end
    return total


def brier(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the mean squared error of scores as probabilities (Brier 1950), or None without scores."""
    if not scores:
        return None
    pairs = zip(positive, scores, strict=True)
    return sum((score - p) ** 2 for p, score in pairs) / len(scores)


def vote_all_bound(noise_rate: float, accuracy: float) -> float | None:
    """Return the upper bound of F1 under ``vote: all``: 2 rho / (2 rho + (1 - rho)(1 - a)).

    ``vote: all`` flags a right label whenever the view is wrong, so at least (1 - rho)(1 - a) of all samples are
    false positives. ``noise_rate`` is rho (None is returned for 0); ``accuracy`` is a, strictly the view's accuracy
    over samples whose label is right.
    """
    if noise_rate <= 0:
        return None
    return 2 * noise_rate / (2 * noise_rate + (1 - noise_rate) * (1 - accuracy))
