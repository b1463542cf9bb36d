"""Noise model that converts scores of a classifier trained on noisy labels into probabilities of the true label.

The true label y of a row has probability softmax(s F + b), with scores F, a sharpness s and a bias b per class. The
noisy label is y with probability 1 - rho, and each other class with equal probability (uniform noise). rho, s and b are
fitted to the noisy labels, which must be held out from their own row's scores; trusted rows have rho = 0.

Noisy labels alone identify rho and s only through the rows with the most extreme scores; with half of the labels wrong,
very different pairs are about equally likely. Therefore the result is averaged over a grid of pairs by their posterior
probability, and the classifier's mean confidence has a weak prior: its logit has a Cauchy distribution with median 0.9
and quartiles 0.85 and 0.94. The tails are heavy, because texts may say little about the answer: a classifier that is
right in half of the rows is then not taken for a good one on labels that are mostly wrong, if the labels contradict it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfilter_robustft.statistics.discriminant import Labels

Float64Array = npt.NDArray[np.float64]

_SHARPNESS = np.geomspace(0.25, 24.0, 16)
_RATES = 20
_TOP = 0.97  # with trusted rows; without, the rate stays below chance
_MARGIN = 0.02
_CONFIDENCE = (2.2, 0.5)  # median and half the quartile range of its logit
_RESOLVED = (
    0.75  # of the rows outside the largest class, where that class alone gives more confidence
)
_BIAS = 3.0  # standard deviation of the bias's prior
_STEPS = 12
_NEGLIGIBLE = 1e-4
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Part:
    """One grid point: posterior ``weight``, noise ``rate``, ``sharpness`` and ``bias`` [c]."""

    weight: float
    rate: float
    sharpness: float
    bias: Float64Array

    def probabilities(self, scores: Float64Array) -> Float64Array:
        """Return P(true label | scores) [n, c] from scores [n, c]."""
        return softmax(self.sharpness * scores + self.bias)


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Fitted noise model; ``low`` and ``high`` are the 95% posterior interval of ``rate``.

    ``nll`` is that of the noisy labels, in nats per label, at the most likely grid point; ``evidence`` is the log
    likelihood of all noisy labels, averaged over the grid.
    """

    parts: tuple[Part, ...]
    rate: float
    low: float
    high: float
    nll: float
    evidence: float

    def probabilities(self, scores: Float64Array) -> Float64Array:
        """Return P(true label | scores) [n, c], without the row's own label."""
        return np.asarray(sum(part.weight * part.probabilities(scores) for part in self.parts))

    def posterior(self, scores: Float64Array, labels: Labels) -> Float64Array:
        """Return P(true label | scores, noisy label) [n, c]; 1 for the label of a trusted row."""
        total = np.zeros_like(scores)
        for part in self.parts:
            joint = part.probabilities(scores) * _label_likelihood(labels, part.rate)
            total += part.weight * joint / np.maximum(joint.sum(axis=1, keepdims=True), _TINY)
        return total


def softmax(logits: Float64Array) -> Float64Array:
    """Return the softmax of each row of ``logits`` [n, c]."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fit(scores: Float64Array, labels: Labels) -> NoiseModel:
    """Fit the model to held-out ``scores`` [n, c] and noisy ``labels``; rows without a label are ignored.

    ``scores`` should have a standard deviation of about 1, because the grid of sharpness is 0.25 to 24.
    """
    known = labels.known
    scores, codes, trusted = scores[known], labels.codes[known], labels.trusted[known]
    c, n = labels.classes, len(codes)
    top = _TOP if trusted.any() else (c - 1) / c - _MARGIN
    rates = np.linspace(0.0, top, _RATES)
    centre = _expected_confidence(codes)
    grid: list[Part] = []
    values, likelihoods = [], []
    for rate in rates:
        bias = np.zeros(c)
        for sharpness in _SHARPNESS:
            bias, likelihood = _fit_bias(sharpness * scores, codes, trusted, float(rate), bias)
            part = Part(0.0, float(rate), float(sharpness), bias)
            grid.append(part)
            likelihoods.append(likelihood)
            values.append(likelihood + _log_prior(part.probabilities(scores), bias, centre))
    posterior = np.exp(np.array(values) - max(values))
    evidence = max(values) + float(np.log(posterior.mean()))
    posterior /= posterior.sum()
    relevant = posterior > _NEGLIGIBLE
    posterior = np.where(relevant, posterior, 0.0) / posterior[relevant].sum()
    by_rate = posterior.reshape(len(rates), -1).sum(axis=1)
    cumulative = np.cumsum(by_rate)
    parts = tuple(
        Part(float(weight), part.rate, part.sharpness, part.bias)
        for weight, part in zip(posterior, grid, strict=True)
        if weight > 0
    )
    return NoiseModel(
        parts,
        float(by_rate @ rates),
        float(rates[np.searchsorted(cumulative, 0.025)]),
        float(rates[min(int(np.searchsorted(cumulative, 0.975)), len(rates) - 1)]),
        -float(max(likelihoods)) / max(1, n),
        evidence,
    )


def _label_likelihood(labels: Labels, rate: float) -> Float64Array:
    """Return P(noisy label | true label) [n, c]; rows of ones without a label."""
    own = np.eye(labels.classes)[np.maximum(labels.codes, 0)]
    noisy = np.where(own > 0, 1 - rate, rate / (labels.classes - 1))
    likelihood = np.where(labels.trusted[:, None], own, noisy)
    return np.where(labels.known[:, None], likelihood, 1.0)


def _expected_confidence(codes: npt.NDArray[np.int64]) -> float:
    """Return the prior's centre, as a logit: 0.9, or more where nearly all labels are of one class.

    Whoever always names the largest class, of share q, is right in q of the rows: a prior below q would make the
    model take the rows of rare classes for rows of that class.
    """
    if not len(codes):
        return _CONFIDENCE[0]
    largest = min(float(np.bincount(codes).max()) / len(codes), 1 - 1e-6)
    confidence = largest + _RESOLVED * (1 - largest)
    return max(_CONFIDENCE[0], float(np.log(confidence / (1 - confidence))))


def _log_prior(probabilities: Float64Array, bias: Float64Array, centre: float) -> float:
    """Return the log prior of the mean confidence and the bias, up to a constant; ``centre`` is the confidence's, as a logit."""
    confidence = float(np.clip(probabilities.max(axis=1).mean(), _TINY, 1 - 1e-9))
    z = (np.log(confidence / (1 - confidence)) - centre) / _CONFIDENCE[1]
    return float(-np.log1p(z**2) - 0.5 * (bias @ bias) / _BIAS**2)


def _fit_bias(
    logits: Float64Array,
    codes: npt.NDArray[np.int64],
    trusted: npt.NDArray[np.bool_],
    rate: float,
    bias: Float64Array,
) -> tuple[Float64Array, float]:
    """Return the maximum a posteriori bias [c] (by Fisher scoring), and the log-likelihood of the labels."""
    n, c = logits.shape
    rows, observed = np.arange(n), np.eye(c)[codes]
    slope = np.where(trusted, 1.0, 1 - rate - rate / (c - 1))
    floor = np.where(trusted, 0.0, rate / (c - 1))

    def value(b: Float64Array) -> tuple[float, float, Float64Array]:
        p = softmax(logits + b)
        observed_label = slope * p[rows, codes] + floor
        likelihood = float(np.log(np.maximum(observed_label, _TINY)).sum())
        return likelihood - 0.5 * float(b @ b) / _BIAS**2, likelihood, p

    penalised, likelihood, p = value(bias)
    for _ in range(_STEPS):
        own = slope * p[rows, codes]
        share = own / np.maximum(own + floor, _TINY)
        gradient = ((observed - p) * share[:, None]).sum(axis=0) - bias / _BIAS**2
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
        gain = trial[0] - penalised
        bias, (penalised, likelihood, p) = bias + step, trial
        if gain < 1e-3:
            break
    return bias, likelihood
