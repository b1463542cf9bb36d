"""Votes of neighbours whose own labels are noisy, in a metric that tells the labels apart.

Plain nearest neighbours in an encoder's space mostly share a subject, and their labels are as wrong as any. So
three things are learned from the noisy labels alone: the discriminant metric (neighbours by Mahalanobis distance
within a class, Hastie & Tibshirani 1996), the probable true labels of the voters (expectation maximisation, a label
being wrong at rate rho and then any other with equal chance), and how far to trust a share of votes. What is learned
is judged by the likelihood of held-out labels: no truth is needed, and a row's own label never votes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import BoolArray, IntArray
from nfilter_robustft.worth import foretells

Float64Array = npt.NDArray[np.float64]

RIDGES: tuple[float | None, ...] = (None, 0.3, 1.0, 3.0)
NEIGHBOURS = (15, 50, 150)
RATES = (0.3, 0.5)
TRUSTS = (0.03, 0.2, 1.0)
_POWERS = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8, 3.4, 4.0, 5.6, 8.0)
_ROUNDS = 4
_RUNS = 3
_DIMENSIONS = 384
_TINY = 1e-9
_HALF_CHI2 = 1.9207


@dataclass(frozen=True, slots=True)
class Setting:
    """How votes are taken. ``ridge`` None keeps the encoder's metric, else shrinks the discriminant one.

    ``rate`` is the noise rate assumed while the voters' labels are cleaned; ``trust`` the weight of a row whose
    label may be wrong, where a trusted row weighs 1.
    """

    k: int = 50
    ridge: float | None = 1.0
    rate: float = 0.3
    trust: float = 1.0


@dataclass(frozen=True, slots=True)
class Labels:
    """Noisy labels: ``codes`` int64 [n] below ``classes`` (-1: none), ``trusted`` bool [n]."""

    codes: IntArray
    trusted: BoolArray
    classes: int

    @property
    def known(self) -> BoolArray:
        return self.codes >= 0

    def take(self, rows: npt.NDArray[Any]) -> Labels:
        return Labels(self.codes[rows], self.trusted[rows], self.classes)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Shares are raised to ``power``; ``rate`` is the noise rate; ``nll`` that of the held-out labels, a label.

    ``low`` and ``high`` bound the rate at 95% by profile likelihood, whatever the power. They take the voters as
    they are.
    """

    power: float
    rate: float
    nll: float
    low: float = 0.0
    high: float = 1.0

    def apply(self, shares: Float64Array) -> Float64Array:
        """Shares [n, c] to probabilities [n, c] of the true label."""
        raised = np.maximum(shares, _TINY) ** self.power
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Votes:
    """Held-out probabilities [n, c] of the true label, with what was chosen to make them.

    ``baseline`` is the nll of the labels under their frequencies.
    """

    probabilities: Float64Array
    setting: Setting
    calibration: Calibration
    baseline: float
    labelled: int

    @property
    def informative(self) -> bool:
        """Whether the votes foretell held-out labels better than their frequencies do, by 3 nats or more.

        They do not where the encoder has no part in the answer, nor where so many labels are wrong that a right
        one is no likelier than any wrong one.
        """
        return foretells(self.baseline, self.calibration.nll, self.labelled)


def wrong(probabilities: Float64Array, labels: Labels, rate: float) -> Float64Array:
    """P(label wrong) [n] given the votes and the label; 0 for trusted rows, 1 where there is no label."""
    own = probabilities[np.arange(len(labels.codes)), np.maximum(labels.codes, 0)]
    right, slip = (1 - rate) * own, rate / (labels.classes - 1) * (1 - own)
    score = slip / np.maximum(right + slip, _TINY)
    return np.where(labels.known, np.where(labels.trusted, 0.0, score), 1.0)


def fit(
    vectors: npt.ArrayLike,
    labels: Labels,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    k: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Votes:
    """Votes for every row of ``vectors`` [n, d], each from rows of other ``groups`` [n] alone.

    Rows that ask the same thing share a group: copies must not vote for one another. The setting is chosen one
    part after another, five folds each, by the likelihood of held-out labels; the votes come from ten folds.
    ``k`` fixes the number of neighbours. ``advance`` is called after each setting tried.
    """
    x = Reduction.of(vectors).apply(vectors)
    _, number = np.unique(groups, return_inverse=True)
    folds = rng.permutation(int(number.max()) + 1)[number]
    best: tuple[float, Setting] | None = None

    def attempt(setting: Setting) -> None:
        nonlocal best
        nll = calibrate(_cross(x, labels, setting, folds % 5), labels).nll
        advance()
        if best is None or nll < best[0] - 1e-6:
            best = (nll, setting)

    trust = TRUSTS[1] if labels.trusted.any() else 1.0
    start = Setting(k=k or _allowed(NEIGHBOURS, len(x))[-1], rate=RATES[0], trust=trust)
    for ridge in RIDGES:
        attempt(replace(start, ridge=ridge))
    for part, values in _parts(labels, k, len(x)):
        assert best is not None
        for value in values:
            if getattr(best[1], part) != value:
                attempt(_with(best[1], part, value))
    assert best is not None
    runs = [folds] + [rng.permutation(int(number.max()) + 1)[number] for _ in range(_RUNS - 1)]
    shares = np.mean([_cross(x, labels, best[1], run % 10) for run in runs], axis=0)
    calibration = calibrate(shares, labels)
    return Votes(
        calibration.apply(shares), best[1], calibration, _baseline(labels), int(labels.known.sum())
    )


@dataclass(frozen=True, slots=True)
class Reduction:
    """Rows of length 1, centred; at most 384 principal directions, which bounds the cost of the metric."""

    mean: Float64Array
    directions: Float64Array | None

    @classmethod
    def of(cls, vectors: npt.ArrayLike) -> Reduction:
        x = _unit(vectors)
        mean = x.mean(axis=0)
        if x.shape[1] <= _DIMENSIONS:
            return cls(mean, None)
        _, directions = np.linalg.eigh((x - mean).T @ (x - mean))
        return cls(mean, directions[:, -_DIMENSIONS:])

    def apply(self, vectors: npt.ArrayLike) -> Float64Array:
        x = _unit(vectors) - self.mean
        return x if self.directions is None else np.asarray(x @ self.directions)


def voter(
    vectors: npt.ArrayLike, labels: Labels, votes: Votes
) -> Callable[[npt.ArrayLike], Float64Array]:
    """Probabilities [m, c] for rows [m, d] that are not among ``vectors`` [n, d], from ``votes``' choices."""
    reduction = Reduction.of(vectors)
    known = labels.known
    model = _model(reduction.apply(vectors)[known], labels.take(known), votes.setting)
    return lambda rows: votes.calibration.apply(model(reduction.apply(rows)))


def calibrate(shares: Float64Array, labels: Labels) -> Calibration:
    """The power and the noise rate under which held-out labels are likeliest, given shares [n, c] of votes.

    Without trusted rows the rate stays under chance: beyond it, the wrong labels would take the right ones' place.
    """
    known = labels.known
    codes, trusted, c = labels.codes[known], labels.trusted[known], labels.classes
    top = 0.99 if trusted.any() else (c - 1) / c - 0.02
    rates = np.linspace(0.0, top, 100)
    total = np.empty((len(_POWERS), len(rates)))
    for i, power in enumerate(_POWERS):
        probabilities = Calibration(power, 0.0, 0.0).apply(shares[known])
        own = probabilities[np.arange(len(codes)), codes]
        noisy, sure = own[~trusted], own[trusted]
        seen = (1 - rates) * noisy[:, None] + rates / (c - 1) * (1 - noisy[:, None])
        total[i] = np.log(np.maximum(seen, _TINY)).sum(axis=0)
        total[i] += np.log(np.maximum(sure, _TINY)).sum()
    power_at, rate_at = np.unravel_index(int(np.argmax(total)), total.shape)
    inside = rates[total.max(axis=0) >= total.max() - _HALF_CHI2]
    nll = -float(total.max()) / max(1, len(codes))
    return Calibration(
        _POWERS[power_at], float(rates[rate_at]), nll, float(inside[0]), float(inside[-1])
    )


def _parts(labels: Labels, k: int | None, n: int) -> Sequence[tuple[str, Sequence[float]]]:
    parts: list[tuple[str, Sequence[float]]] = []
    if labels.trusted.any():
        parts += [("trust", TRUSTS), ("rate", (*RATES, 0.7))]
    else:
        parts.append(("rate", RATES))
    if k is None:
        parts.append(("k", _allowed(NEIGHBOURS, n)))
    return parts


def _with(setting: Setting, part: str, value: Any) -> Setting:
    return replace(setting, **{part: value})


def _allowed(values: Sequence[int], n: int) -> list[int]:
    return [value for value in values if value <= n // 8] or [max(1, min(values[0], n // 4))]


def _baseline(labels: Labels) -> float:
    counts = np.bincount(labels.codes[labels.known], minlength=labels.classes)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _unit(vectors: npt.ArrayLike) -> Float64Array:
    x = np.asarray(vectors, dtype=np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY))


def _cross(x: Float64Array, labels: Labels, setting: Setting, fold: IntArray) -> Float64Array:
    """Shares [n, c]: every fold's from a model of the others."""
    shares = np.full((len(x), labels.classes), 1.0 / labels.classes)
    for f in range(int(fold.max()) + 1):
        train = (fold != f) & labels.known
        if train.any() and (fold == f).any():
            shares[fold == f] = _model(x[train], labels.take(train), setting)(x[fold == f])
    return shares


def _model(
    x: Float64Array, labels: Labels, setting: Setting
) -> Callable[[Float64Array], Float64Array]:
    """Clean the labels of the voters ``x`` [n, d] by expectation maximisation; then shares for any rows [m, d]."""
    n, c = len(x), labels.classes
    observed = np.eye(c)[labels.codes]
    evidence = np.where(observed > 0, 1 - setting.rate, setting.rate / (c - 1))
    weight = np.where(labels.trusted, 1.0, setting.trust)
    truth = observed
    mean = x.mean(axis=0)
    scatter = (x - mean).T @ (x - mean) / n
    for _ in range(_ROUNDS):
        space = _project(x, truth * weight[:, None], scatter, mean, setting.ridge)
        shares = _vote(space(x), space(x), truth, weight, setting.k, own=True)
        cleaned = evidence * shares
        cleaned /= np.maximum(cleaned.sum(axis=1, keepdims=True), _TINY)
        truth = np.where(labels.trusted[:, None], observed, cleaned)
    space = _project(x, truth * weight[:, None], scatter, mean, setting.ridge)
    voters = space(x)
    return lambda rows: _vote(voters, space(rows), truth, weight, setting.k, own=False)


def _project(
    x: Float64Array,
    truth: Float64Array,
    scatter: Float64Array,
    mean: Float64Array,
    ridge: float | None,
) -> Callable[[Float64Array], Float64Array]:
    """The map into the space in which distance counts only what tells classes apart ([., d] to [., c-1])."""
    if ridge is None:
        return lambda rows: rows
    size = truth.sum(axis=0)
    share = size / size.sum()
    offsets = (truth.T @ x / np.maximum(size, _TINY)[:, None] - mean) * np.sqrt(share)[:, None]
    within = scatter - offsets.T @ offsets
    within[np.diag_indices_from(within)] += ridge * max(np.trace(scatter), _TINY) / len(within)
    directions = np.linalg.solve(within, offsets.T)
    values, vectors = np.linalg.eigh(offsets @ directions)
    kept = values > 1e-10 * max(float(values[-1]), _TINY)
    matrix = directions @ (vectors[:, kept] / np.sqrt(values[kept]))
    return lambda rows: np.asarray((rows - mean) @ matrix)


def _vote(
    voters: Float64Array,
    rows: Float64Array,
    truth: Float64Array,
    weight: Float64Array,
    k: int,
    own: bool,
) -> Float64Array:
    """Shares [m, c] of the votes of the ``k`` nearest, one more vote going to the classes' frequencies."""
    import faiss

    k = min(k, len(voters) - own)
    prior = (truth * weight[:, None]).sum(axis=0)
    prior /= prior.sum()
    if k < 1 or not voters.shape[1]:
        return np.tile(prior, (len(rows), 1))
    _, near = faiss.knn(
        np.ascontiguousarray(rows, dtype=np.float32),
        np.ascontiguousarray(voters, dtype=np.float32),
        k + own,
    )
    counted = weight[near]
    if own:  # a row does not vote for itself; among many equal ones it may not be listed
        itself = near == np.arange(len(rows))[:, None]
        itself[~itself.any(axis=1), -1] = True
        counted = np.where(itself, 0.0, counted)
    votes = np.einsum("mk,mkc->mc", counted, truth[near])
    extra = float(weight.mean())
    return np.asarray((votes + extra * prior) / (counted.sum(axis=1, keepdims=True) + extra))
