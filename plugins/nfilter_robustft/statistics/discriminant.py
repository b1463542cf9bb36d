"""Votes of nearest neighbours with noisy labels, in a metric that separates the labels.

Nearest neighbours in an encoder's space mostly share a subject, and their labels are noisy too. So three things are
learned from the noisy labels: a discriminant metric (Mahalanobis distance within classes, Hastie & Tibshirani 1996),
the probable true labels of the voters (expectation maximisation under uniform noise at rate rho), and the calibration
of vote shares. All are chosen by the likelihood of held-out labels: no truth is needed, and a row's own label never
votes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import BoolArray, IntArray
from nfilter_robustft.statistics.chance_test import beats_frequencies

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
    """Settings of the vote. ``ridge`` regularises the discriminant metric; None uses the encoder's metric.

    ``rate`` is the noise rate assumed when cleaning the voters' labels; ``trust`` is the weight of an untrusted row,
    relative to 1 for a trusted one.
    """

    k: int = 50
    ridge: float | None = 1.0
    rate: float = 0.3
    trust: float = 1.0


@dataclass(frozen=True, slots=True)
class Labels:
    """Noisy labels: ``codes`` int64 [n] below ``classes`` (-1: no label), ``trusted`` bool [n]."""

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
    """Calibration of vote shares by a ``power``, with the noise ``rate`` and the ``nll`` per held-out label.

    ``low`` and ``high`` are the 95% profile likelihood interval of the rate over all powers, for fixed voters.
    """

    power: float
    rate: float
    nll: float
    low: float = 0.0
    high: float = 1.0

    def apply(self, shares: Float64Array) -> Float64Array:
        """Convert shares [n, c] to probabilities [n, c] of the true label."""
        raised = np.maximum(shares, _TINY) ** self.power
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Votes:
    """Held-out probabilities [n, c] of the true label, with the chosen setting and calibration.

    ``baseline`` is the nll per label under label frequencies.
    """

    probabilities: Float64Array
    setting: Setting
    calibration: Calibration
    baseline: float
    labelled: int

    @property
    def informative(self) -> bool:
        """Whether the votes predict held-out labels better than frequencies, by 3 nats or more.

        False if the encoder does not capture the answer, or if the noise rate is close to chance.
        """
        return beats_frequencies(self.baseline, self.calibration.nll, self.labelled)


def fit(
    vectors: npt.ArrayLike,
    labels: Labels,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    k: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Votes:
    """Fit the vote and return votes for every row, from rows of other groups only.

    ``vectors`` are [n, d]. Rows with the same query share a group in ``groups`` [n] and do not vote for one another.
    Each part of the setting is chosen in turn by the held-out likelihood in five folds; the votes use ten folds.
    ``k`` fixes the number of neighbours; ``advance`` is called after each setting tried.
    """
    x = Reduction.of(vectors).apply(vectors)
    _, group = np.unique(groups, return_inverse=True)
    folds = rng.permutation(int(group.max()) + 1)[group]
    best: tuple[float, Setting] | None = None

    def attempt(setting: Setting) -> None:
        nonlocal best
        nll = calibrate(_cross(x, labels, setting, folds % 5), labels).nll
        advance()
        if best is None or nll < best[0] - 1e-6:
            best = (nll, setting)

    trust = TRUSTS[1] if labels.trusted.any() else 1.0
    start = Setting(k=k or _feasible_k(NEIGHBOURS, len(x))[-1], rate=RATES[0], trust=trust)
    for ridge in RIDGES:
        attempt(replace(start, ridge=ridge))
    for part, values in _candidates(labels, k, len(x)):
        assert best is not None
        for value in values:
            if getattr(best[1], part) != value:
                changed: dict[str, Any] = {part: value}
                attempt(replace(best[1], **changed))
    assert best is not None
    runs = [folds] + [rng.permutation(int(group.max()) + 1)[group] for _ in range(_RUNS - 1)]
    shares = np.mean([_cross(x, labels, best[1], run % 10) for run in runs], axis=0)
    calibration = calibrate(shares, labels)
    return Votes(
        calibration.apply(shares),
        best[1],
        calibration,
        frequency_nll(labels),
        int(labels.known.sum()),
    )


@dataclass(frozen=True, slots=True)
class Reduction:
    """Map to centred rows of at most 384 principal directions, which limits the cost of the metric."""

    mean: Float64Array
    directions: Float64Array | None

    @classmethod
    def of(cls, vectors: npt.ArrayLike) -> Reduction:
        x = _unit_rows(vectors)
        mean = x.mean(axis=0)
        if x.shape[1] <= _DIMENSIONS:
            return cls(mean, None)
        _, directions = np.linalg.eigh((x - mean).T @ (x - mean))
        return cls(mean, directions[:, -_DIMENSIONS:])

    def apply(self, vectors: npt.ArrayLike) -> Float64Array:
        x = _unit_rows(vectors) - self.mean
        return x if self.directions is None else np.asarray(x @ self.directions)


def predictor(
    vectors: npt.ArrayLike, labels: Labels, votes: Votes
) -> Callable[[npt.ArrayLike], Float64Array]:
    """Return a function from other rows [m, d] to probabilities [m, c], with the settings of ``votes``."""
    reduction = Reduction.of(vectors)
    known = labels.known
    model = _model(reduction.apply(vectors)[known], labels.take(known), votes.setting)
    return lambda rows: votes.calibration.apply(model(reduction.apply(rows)))


def calibrate(shares: Float64Array, labels: Labels) -> Calibration:
    """Return the maximum likelihood power and noise rate for held-out labels, given vote shares [n, c].

    Without trusted rows the rate stays below chance, because above it right and wrong labels would be swapped.
    """
    known = labels.known
    codes, trusted, c = labels.codes[known], labels.trusted[known], labels.classes
    top = 0.99 if trusted.any() else (c - 1) / c - 0.02
    rates = np.linspace(0.0, top, 100)
    total = np.empty((len(_POWERS), len(rates)))
    for i, power in enumerate(_POWERS):
        probabilities = Calibration(power, 0.0, 0.0).apply(shares[known])
        own = probabilities[np.arange(len(codes)), codes]
        noisy, right = own[~trusted], own[trusted]
        observed = (1 - rates) * noisy[:, None] + rates / (c - 1) * (1 - noisy[:, None])
        total[i] = np.log(np.maximum(observed, _TINY)).sum(axis=0)
        total[i] += np.log(np.maximum(right, _TINY)).sum()
    power_at, rate_at = np.unravel_index(int(np.argmax(total)), total.shape)
    inside = rates[total.max(axis=0) >= total.max() - _HALF_CHI2]
    nll = -float(total.max()) / max(1, len(codes))
    return Calibration(
        _POWERS[power_at], float(rates[rate_at]), nll, float(inside[0]), float(inside[-1])
    )


def _candidates(labels: Labels, k: int | None, n: int) -> Sequence[tuple[str, Sequence[float]]]:
    """Return the fields of ``Setting`` to choose in turn, with their candidate values."""
    candidates: list[tuple[str, Sequence[float]]] = []
    if labels.trusted.any():
        candidates += [("trust", TRUSTS), ("rate", (*RATES, 0.7))]
    else:
        candidates.append(("rate", RATES))
    if k is None:
        candidates.append(("k", _feasible_k(NEIGHBOURS, n)))
    return candidates


def _feasible_k(values: Sequence[int], n: int) -> list[int]:
    return [value for value in values if value <= n // 8] or [max(1, min(values[0], n // 4))]


def frequency_nll(labels: Labels) -> float:
    """Return the nll per label, in nats, of predicting each label by the frequencies of all."""
    counts = np.bincount(labels.codes[labels.known], minlength=labels.classes)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _unit_rows(vectors: npt.ArrayLike) -> Float64Array:
    x = np.asarray(vectors, dtype=np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY))


def _cross(x: Float64Array, labels: Labels, setting: Setting, fold: IntArray) -> Float64Array:
    """Return cross-validated vote shares [n, c]."""
    shares = np.full((len(x), labels.classes), 1.0 / labels.classes)
    for f in range(int(fold.max()) + 1):
        train = (fold != f) & labels.known
        if train.any() and (fold == f).any():
            shares[fold == f] = _model(x[train], labels.take(train), setting)(x[fold == f])
    return shares


def _model(
    x: Float64Array, labels: Labels, setting: Setting
) -> Callable[[Float64Array], Float64Array]:
    """Clean the labels of the voters ``x`` [n, d] by expectation maximisation; return the vote for rows [m, d]."""
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
    """Return the map from [., d] to the discriminant space [., c-1], which separates the classes."""
    if ridge is None:
        return lambda rows: rows
    size = truth.sum(axis=0)
    share = size / size.sum()
    offsets = (truth.T @ x / np.maximum(size, _TINY)[:, None] - mean) * np.sqrt(share)[:, None]
    within = scatter - offsets.T @ offsets
    within[np.diag_indices_from(within)] += ridge * max(np.trace(scatter), _TINY) / len(within)
    directions = np.linalg.solve(within, offsets.T)
    values, vectors = np.linalg.eigh(offsets @ directions)
    nonzero = values > 1e-10 * max(float(values[-1]), _TINY)
    matrix = directions @ (vectors[:, nonzero] / np.sqrt(values[nonzero]))
    return lambda rows: np.asarray((rows - mean) @ matrix)


def _vote(
    voters: Float64Array,
    rows: Float64Array,
    truth: Float64Array,
    weight: Float64Array,
    k: int,
    own: bool,
) -> Float64Array:
    """Return vote shares [m, c] of the ``k`` nearest voters, with one additional vote for the class frequencies.

    ``own``: the rows are the voters themselves, which do not vote for themselves.
    """
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
    vote = weight[near]
    if own:  # with many equal vectors, the row itself may not be among the nearest
        itself = near == np.arange(len(rows))[:, None]
        itself[~itself.any(axis=1), -1] = True
        vote = np.where(itself, 0.0, vote)
    votes = np.einsum("mk,mkc->mc", vote, truth[near])
    extra = float(weight.mean())
    return np.asarray((votes + extra * prior) / (vote.sum(axis=1, keepdims=True) + extra))
