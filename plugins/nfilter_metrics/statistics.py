"""Statistics of binary classification. Undefined values are None, never NaN or a conventional number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nfilter import missing_package


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


def scikit_learn() -> Any:
    """Return ``sklearn.metrics``, or None if scikit-learn is not installed: its figures are then None."""
    try:
        from sklearn import metrics
    except ImportError:
        return None
    return metrics


MISSING = missing_package("sklearn", "scikit-learn")


def mcc(counts: Counts) -> float | None:
    """Return the Matthews correlation coefficient, or None if a row or column is empty."""
    table = (counts.tp, counts.fp, counts.fn, counts.tn)
    tp, fp, fn, tn = table
    metrics = scikit_learn()
    if metrics is None or not (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn):
        return None
    labels, flags = (True, False, True, False), (True, True, False, False)
    return float(metrics.matthews_corrcoef(labels, flags, sample_weight=table))


def roc_auc(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the area under the ROC curve, tied scores counting half, or None without both classes."""
    metrics = scikit_learn()
    if metrics is None or len(set(positive)) < 2:
        return None
    return float(metrics.roc_auc_score(positive, scores))


def average_precision(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the average precision with equal scores as one threshold, or None without positives."""
    metrics = scikit_learn()
    if metrics is None or not any(positive):
        return None
    return float(metrics.average_precision_score(positive, scores))


def brier(positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the mean squared error of scores as probabilities (Brier 1950), or None without scores."""
    metrics = scikit_learn()
    if metrics is None or not len(scores):
        return None
    return float(metrics.brier_score_loss(positive, scores, pos_label=True))


def vote_all_bound(noise_rate: float, accuracy: float) -> float | None:
    """Return the upper bound of F1 under ``vote: all``: 2 rho / (2 rho + (1 - rho)(1 - a)).

    ``vote: all`` flags a right label whenever the view is wrong, so at least (1 - rho)(1 - a) of all samples are
    false positives. ``noise_rate`` is rho (None is returned for 0); ``accuracy`` is a, strictly the view's accuracy
    over samples whose label is right.
    """
    if noise_rate <= 0:
        return None
    return 2 * noise_rate / (2 * noise_rate + (1 - noise_rate) * (1 - accuracy))
