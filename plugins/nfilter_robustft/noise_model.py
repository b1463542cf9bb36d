"""Scores of a classifier that learned from noisy labels, turned into probabilities of the true label.

The true label y of a row has probability softmax(s F + b), for scores F, a sharpness s and a bias b per class. The
noisy label is y with probability 1 - rho, and any other class with equal chance (uniform noise). rho, s and b are
fitted to the noisy labels, which must not have been used for their own row's scores; trusted rows have rho = 0.

From noisy labels alone rho and s are told apart by the rows with the most extreme scores only, so that at half of
the labels wrong very different pairs are about equally likely. Two things make the answer useful all the same: it
is averaged over a grid of pairs by their posterior probability, and the mean confidence of the classifier has a
weak prior, with .9 in the middle (1.96 standard deviations reach from .77 to .96).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfilter_robustft.discriminant import Labels

Float64Array = npt.NDArray[np.float64]

_SHARPNESS = np.geomspace(0.25, 24.0, 16)
_RATES = 20
_TOP = 0.97  # with trusted rows; without, the rate stays under chance
_MARGIN = 0.02
_CONFIDENCE = (2.2, 0.5)  # mean and standard deviation of the logit of the mean confidence
_BIAS = 3.0  # standard deviation of the bias's prior
_STEPS = 12
_NEGLIGIBLE = 1e-4
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Part:
    """One pair of the grid: its posterior ``weight``, the noise ``rate``, ``sharpness`` and ``bias`` [c]."""

    weight: float
    rate: float
    sharpness: float
    bias: Float64Array

    def probabilities(self, scores: Float64Array) -> Float64Array:
        """P(true label) [n, c] before the noisy label is seen, from scores [n, c]."""
        return softmax(self.sharpness * scores + self.bias)


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """The fitted model; ``low`` and ``high`` bound ``rate`` at 95% of the posterior.

    ``nll`` is that of the noisy labels, in nats per label, under the likeliest pair; ``evidence`` is the log of
    the likelihood of all noisy labels, averaged over the grid.
    """

    parts: tuple[Part, ...]
    rate: float
    low: float
    high: float
    nll: float
    evidence: float

    def probabilities(self, scores: Float64Array) -> Float64Array:
        """P(true label | scores) [n, c]; the row's own label plays no part."""
        return np.asarray(sum(part.weight * part.probabilities(scores) for part in self.parts))

    def given(self, scores: Float64Array, labels: Labels) -> Float64Array:
        """P(true label | scores and the row's own noisy label) [n, c]; 1 for the label of a trusted row."""
        total = np.zeros_like(scores)
        for part in self.parts:
            joint = part.probabilities(scores) * _evidence(labels, part.rate)
            total += part.weight * joint / np.maximum(joint.sum(axis=1, keepdims=True), _TINY)
        return total


def softmax(logits: Float64Array) -> Float64Array:
    """Rows [n, c] of probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fit(scores: Float64Array, labels: Labels) -> NoiseModel:
    """Fit the model to held-out ``scores`` [n, c] of rows with noisy ``labels``; rows without a label are left out.

    ``scores`` should have a standard deviation of about 1: the grid of sharpness is 0.25 to 24.
    """
    known = labels.known
    scores, codes, trusted = scores[known], labels.codes[known], labels.trusted[known]
    c, n = labels.classes, len(codes)
    top = _TOP if trusted.any() else (c - 1) / c - _MARGIN
    rates = np.linspace(0.0, top, _RATES)
    found: list[Part] = []
    values, likelihoods = [], []
    for rate in rates:
        bias = np.zeros(c)
        for sharpness in _SHARPNESS:
            bias, likelihood = _fit_bias(sharpness * scores, codes, trusted, float(rate), bias)
            part = Part(0.0, float(rate), float(sharpness), bias)
            found.append(part)
            likelihoods.append(likelihood)
            values.append(likelihood + _prior(part.probabilities(scores), bias))
    posterior = np.exp(np.array(values) - max(values))
    evidence = max(values) + float(np.log(posterior.mean()))
    posterior /= posterior.sum()
    kept = posterior > _NEGLIGIBLE
    posterior = np.where(kept, posterior, 0.0) / posterior[kept].sum()
    by_rate = posterior.reshape(len(rates), -1).sum(axis=1)
    reached = np.cumsum(by_rate)
    parts = tuple(
        Part(float(weight), part.rate, part.sharpness, part.bias)
        for weight, part in zip(posterior, found, strict=True)
        if weight > 0
    )
    return NoiseModel(
        parts,
        float(by_rate @ rates),
        float(rates[np.searchsorted(reached, 0.025)]),
        float(rates[min(int(np.searchsorted(reached, 0.975)), len(rates) - 1)]),
        -float(max(likelihoods)) / max(1, n),
        evidence,
    )


def _evidence(labels: Labels, rate: float) -> Float64Array:
    """P(noisy label | true label) [n, c]; 1 throughout where a row has no label."""
    own = np.eye(labels.classes)[np.maximum(labels.codes, 0)]
    noisy = np.where(own > 0, 1 - rate, rate / (labels.classes - 1))
    likely = np.where(labels.trusted[:, None], own, noisy)
    return np.where(labels.known[:, None], likely, 1.0)


def _prior(probabilities: Float64Array, bias: Float64Array) -> float:
    """Log prior of the mean confidence and the bias, up to a constant."""
    mean = float(np.clip(probabilities.max(axis=1).mean(), _TINY, 1 - 1e-9))
    middle, deviation = _CONFIDENCE
    away = (np.log(mean / (1 - mean)) - middle) / deviation
    return float(-0.5 * away**2 - 0.5 * (bias @ bias) / _BIAS**2)


def _fit_bias(
    logits: Float64Array,
    codes: npt.NDArray[np.int64],
    trusted: npt.NDArray[np.bool_],
    rate: float,
    bias: Float64Array,
) -> tuple[Float64Array, float]:
    """The bias [c] under which the labels are likeliest (Fisher scoring), and their log-likelihood."""
    n, c = logits.shape
    rows, observed = np.arange(n), np.eye(c)[codes]
    slope = np.where(trusted, 1.0, 1 - rate - rate / (c - 1))
    floor = np.where(trusted, 0.0, rate / (c - 1))

    def value(b: Float64Array) -> tuple[float, float, Float64Array]:
        p = softmax(logits + b)
        seen = slope * p[rows, codes] + floor
        likelihood = float(np.log(np.maximum(seen, _TINY)).sum())
        return likelihood - 0.5 * float(b @ b) / _BIAS**2, likelihood, p

    penalised, likelihood, p = value(bias)
    for _ in range(_STEPS):
        own = slope * p[rows, codes]
        pull = own / np.maximum(own + floor, _TINY)
        gradient = ((observed - p) * pull[:, None]).sum(axis=0) - bias / _BIAS**2
        noisy = np.maximum(slope[:, None] * p + floor[:, None], _TINY)
        squared = p**2 * slope[:, None] ** 2 / noisy
        cross = squared.T @ p
        information = np.diag(squared.sum(axis=0)) - cross - cross.T
        information += (p * squared.sum(axis=1, keepdims=True)).T @ p + np.eye(c) / _BIAS**2
        step = np.linalg.solve(information, gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), _TINY))
        trial = value(bias + step)
        while trial[0] < penalised - 1e-9 and np.abs(step).max() > 1e-3:
            step /= 4
            trial = value(bias + step)
        if trial[0] < penalised:
            break
        gained = trial[0] - penalised
        bias, (penalised, likelihood, p) = bias + step, trial
        if gained < 1e-3:
            break
    return bias, likelihood
