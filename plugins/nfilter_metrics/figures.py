"""Statistics of yes-or-no data. What is undefined is None, never NaN and never a number of convention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def ratio(k: float, n: float) -> float | None:
    """``k / n``, or None where n is 0."""
    return k / n if n else None


@dataclass(frozen=True, slots=True)
class Counts:
    """A 2x2 table: what was flagged against what was wrong."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, positive: Sequence[bool], flagged: Sequence[bool]) -> Counts:
        """The table of two sequences of one length."""
        pairs = list(zip(positive, flagged, strict=True))
        return cls(
            tp=sum(p and f for p, f in pairs),
            fp=sum(not p and f for p, f in pairs),
            fn=sum(p and not f for p, f in pairs),
            tn=sum(not p and not f for p, f in pairs),
        )

    @property
    def precision(self) -> float | None:
        """Share of the flagged that is wrong; None where nothing was flagged."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the wrong that was flagged; None where nothing is wrong."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both; None where nothing is wrong, 0 where something is and none of it flagged."""
        if not self.tp + self.fn:
            return None
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> float | None:
        """Matthews' correlation coefficient; None where a row or a column of the table is empty."""
        return mcc(self)


def mcc(counts: Counts) -> float | None:
    """Matthews' correlation coefficient of a table; None where a row or a column of it is empty."""
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(square) if square else None


def roc_auc(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """The chance that a wrong one scores above a right one, ties counting half; None without both.

    By ranks (Mann and Whitney); ties share their mean rank.
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
    """The mean of the precision over the steps of recall, equal scores being one step; None without positives."""
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
    """The mean squared difference of score and outcome; None of nothing. Brier (1950)."""
    if not scores:
        return None
    pairs = zip(positive, scores, strict=True)
    return sum((score - p) ** 2 for p, score in pairs) / len(scores)


def vote_all_bound(noise_rate: float, accuracy: float) -> float | None:
    """The most that F1 can be under ``vote: all``: 2 rho / (2 rho + (1 - rho)(1 - a)).

    ``noise_rate`` is rho. A right label is flagged wherever the view is wrong about it, whatever other views say,
    so that at least (1 - rho)(1 - a) of all are flagged for nothing; ``accuracy`` is a, strictly that over the
    samples whose label is right. None where nothing is wrong.
    """
    if noise_rate <= 0:
        return None
    return 2 * noise_rate / (2 * noise_rate + (1 - noise_rate) * (1 - accuracy))
