"""The distribution of reward margins when a share of the pairs is flipped.

A flip exchanges the responses, so it changes the sign of the margin and nothing else: if margins of right pairs have the density f,
those of flipped pairs have f(-m), and the data have (1 - rho) f(m) + rho f(-m). With f normal, of mean mu > 0 and variance s^2:

    P(flipped | m) = sigmoid(logit rho - 2 mu m / s^2)

Where the two components overlap, rho and mu are not identifiable from the margins alone: ``fit`` then needs trusted pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_LEAST_TRUSTED = 20
_LEAST = 50  # pairs from which the rate follows without trusted ones
_STEPS = 500


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The fitted mixture: flip rate ``rate``, mean and standard deviation of the margins of right pairs.

    ``identified``: the rate follows from trusted pairs, or at least 50 margins whose components are apart (mean above one standard
    deviation). Without it margins only rank the pairs.
    """

    rate: float
    mean: float
    sd: float
    identified: bool

    def evidence(self, margin: float) -> float:
        """Return the log-odds that a pair with this margin is right, before the flip rate."""
        return 2.0 * self.mean * margin / self.sd**2

    def flipped(self, margin: float) -> float:
        """Return P(flipped | margin)."""
        rate = min(max(self.rate, 1e-6), 1.0 - 1e-6)
        return sigmoid(math.log(rate / (1.0 - rate)) - self.evidence(margin))


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-min(value, 700.0)))
    small = math.exp(max(value, -700.0))
    return small / (1.0 + small)


def fit(margins: Array, trusted: npt.NDArray[np.bool_]) -> Mirrored:
    """Fit the mixture to label-oriented ``margins`` [n]; ``trusted`` [n] marks pairs known to be right.

    With at least 20 trusted pairs, mean and variance are theirs, and the rate is the likeliest for the others. Otherwise all
    three follow from expectation maximisation, started at the mean absolute margin.
    """
    known = margins[trusted]
    others = margins[~trusted]
    if len(known) >= _LEAST_TRUSTED:
        mean, sd = float(known.mean()), _positive(float(known.std(ddof=1)))
        return Mirrored(_rate(others, mean, sd), mean, sd, identified=mean > 0)
    if not len(others):
        return Mirrored(0.0, 0.0, 1.0, identified=False)
    mean, rate = float(np.abs(others).mean()), 0.25
    sd = _positive(math.sqrt(max(float((others**2).mean()) - mean**2, 0.0)))
    for _ in range(_STEPS):
        flips = _posterior(others, rate, mean, sd)
        new = float((flips.mean(), ((1 - 2 * flips) * others).mean())[1])
        rate, change = float(flips.mean()), abs(new - mean)
        mean = new
        sd = _positive(math.sqrt(max(float((others**2).mean()) - mean**2, 0.0)))
        if change < 1e-9 * max(1.0, abs(mean)):
            break
    return Mirrored(rate, mean, sd, identified=mean > sd and len(others) >= _LEAST)


def _rate(margins: Array, mean: float, sd: float) -> float:
    rate = 0.25
    for _ in range(_STEPS if len(margins) else 0):
        rate = float(_posterior(margins, rate, mean, sd).mean())
    return rate if len(margins) else 0.0


def _posterior(margins: Array, rate: float, mean: float, sd: float) -> Array:
    rate = min(max(rate, 1e-9), 1.0 - 1e-9)
    odds = math.log(rate / (1.0 - rate)) - 2.0 * mean * margins / sd**2
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -700, 700))))


def _positive(value: float) -> float:
    return max(value, 1e-9)
