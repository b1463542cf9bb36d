"""Mixture of two normal distributions over scores, fitted by expectation-maximisation on a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nfilter import FloatArray

Doubles: TypeAlias = npt.NDArray[np.float64]

_BINS = 2048
_MAX_ITERATIONS = 500
_TAIL = 0.001
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two-component mixture: ``share`` is the upper component's share; means and deviations are (lower, upper).

    ``better`` is the gain in the Bayesian information criterion over one normal distribution; if it is negative, one
    distribution fits better.
    """

    share: float
    means: tuple[float, float]
    deviations: tuple[float, float]
    better: float

    def upper(self, scores: Any) -> Doubles:
        """Return P(upper component | score) for each score ([n]); 1 above the upper mean, 0 below the lower mean.

        Beyond the means the wider component would dominate on both sides, so the posterior would not be monotonic.
        """
        x = np.asarray(scores, dtype=np.float64)
        logs = [
            math.log(max(weight, 1e-300)) + _log_normal(x, mean, deviation)
            for weight, mean, deviation in zip(
                (1 - self.share, self.share), self.means, self.deviations, strict=True
            )
        ]
        with np.errstate(over="ignore"):
            p = 1 / (1 + np.exp(logs[0] - logs[1]))
        p = np.where(x >= self.means[1], 1.0, p)
        return np.where(x <= self.means[0], 0.0, p)


def fit(parts: Sequence[FloatArray]) -> Mixture | None:
    """Fit the mixture to the scores in ``parts``; return None for fewer than two distinct finite scores.

    Scores are binned between their 0.1% and 99.9% quantiles; scores outside are counted in the outermost bins.
    """
    histogram = _histogram(parts)
    if histogram is None:
        return None
    centres, counts = histogram
    n = float(counts.sum())
    mean = float(centres @ counts / n)
    floor = float(centres[1] - centres[0]) ** 2 / 12  # the variance within a bin
    variance = float(((centres - mean) ** 2) @ counts / n) + floor
    single = float(_log_normal(centres, mean, math.sqrt(variance)) @ counts)
    best = max(
        (_maximise(centres, counts, cut, floor) for cut in (0.25, 0.5, 0.75, 0.9)),
        key=lambda f: f[0],
    )
    likelihood, share, means, variances = best
    low, high = (0, 1) if means[0] <= means[1] else (1, 0)
    return Mixture(
        share=share if high == 1 else 1 - share,
        means=(means[low], means[high]),
        deviations=(math.sqrt(variances[low]), math.sqrt(variances[high])),
        better=2 * (likelihood - single) - 3 * math.log(n),
    )


def _maximise(
    x: Doubles, counts: Doubles, cut: float, floor: float
) -> tuple[float, float, list[float], list[float]]:
    """Run EM from a split at quantile ``cut``; return (log-likelihood, share of the second, means, variances)."""
    n = float(counts.sum())
    split = int(np.searchsorted(np.cumsum(counts), cut * n))
    second = (np.arange(len(x)) > split).astype(np.float64)
    previous = -math.inf
    share, means, variances = 0.5, [0.0, 0.0], [1.0, 1.0]
    for _ in range(_MAX_ITERATIONS):
        for i, weight in enumerate(((1 - second) * counts, second * counts)):
            total = max(float(weight.sum()), 1e-12)
            means[i] = float(x @ weight / total)
            variances[i] = float(((x - means[i]) ** 2) @ weight / total) + floor
        share = float(second @ counts / n)
        logs = [
            math.log(max(w, 1e-300)) + _log_normal(x, m, math.sqrt(v))
            for w, m, v in zip((1 - share, share), means, variances, strict=True)
        ]
        joint = np.logaddexp(*logs)
        second = np.exp(logs[1] - joint)
        likelihood = float(joint @ counts)
        if likelihood - previous < 1e-9 * n:
            break
        previous = likelihood
    return likelihood, share, means, variances


def _log_normal(x: Doubles, mean: float, deviation: float) -> Doubles:
    z: Doubles = (x - mean) / deviation
    return -0.5 * z**2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)


def _histogram(parts: Sequence[FloatArray]) -> tuple[Doubles, Doubles] | None:
    subsample = _subsample(parts)
    if len(subsample) < 2 or subsample.min() == subsample.max():
        return None
    low, high = (float(q) for q in np.quantile(subsample, (_TAIL, 1 - _TAIL)))
    if low == high:
        low, high = float(subsample.min()), float(subsample.max())
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.zeros(_BINS)
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            block = part[start : start + _BLOCK]
            block = block[np.isfinite(block)]
            counts += np.histogram(np.clip(block, low, high), edges)[0]
    return (edges[:-1] + edges[1:]) / 2, counts


def _subsample(parts: Sequence[FloatArray]) -> FloatArray:
    """Return at most about a million finite scores at a constant stride, enough to place the outer bin edges."""
    step = max(1, sum(map(len, parts)) // _BLOCK)
    subsample = (
        np.concatenate([part[::step] for part in parts]) if parts else np.zeros(0, np.float32)
    )
    finite: FloatArray = subsample[np.isfinite(subsample)]
    return finite
