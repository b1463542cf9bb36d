"""Linear classifier for noisy labels: ridge regression on the vectors of one or several encoders.

Least squares is linear in the labels, so uniform noise shrinks its scores and adds variance, but does not move the
boundary between classes; ``noise_model`` corrects the shrinkage. Each row is scored, in closed form, by a model fitted
without its label and the labels of rows with the same query. The penalty minimises the squared error of these scores.
Subsets of the encoders are averaged by the likelihood of the noisy labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from nfilter_robustft.statistics import noise_model
from nfilter_robustft.statistics.discriminant import Labels, frequency_nll
from nfilter_robustft.statistics.noise_model import NoiseModel

Float64Array = npt.NDArray[np.float64]

POWERS = (1.0, 2.0)
PENALTIES = np.geomspace(0.1, 1000.0, 17)
_DIMENSIONS = 512
_ALL_SUBSETS = 3  # largest number of encoders of which all subsets are fitted
_ROUNDS = 2
_NATS = 4.0
_MIN_WEIGHT = 0.05
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Space:
    """Map from one encoder's vectors to features: standardised, reduced to 512 principal directions, of length 1."""

    mean: Float64Array
    scale: Float64Array
    directions: Float64Array | None

    @classmethod
    def of(cls, vectors: npt.ArrayLike) -> Space:
        """Learn the map from vectors [n, d]."""
        x = _unit_rows(np.asarray(vectors, dtype=np.float64))
        mean = x.mean(axis=0)
        deviation = (x - mean).std(axis=0)
        scale = 1 / np.maximum(deviation, 1e-6 * max(float(deviation.max()), _TINY))
        x = (x - mean) * scale
        directions = None
        if x.shape[1] > _DIMENSIONS:
            directions = np.linalg.eigh(x.T @ x)[1][:, -_DIMENSIONS:]
        return cls(mean, scale, directions)

    def apply(self, vectors: npt.ArrayLike) -> Float64Array:
        """Return features [n, at most 512]."""
        x = (_unit_rows(np.asarray(vectors, dtype=np.float64)) - self.mean) * self.scale
        return _unit_rows(x if self.directions is None else x @ self.directions)


@dataclass(frozen=True, slots=True)
class Member:
    """Classifier on a subset of ``encoders`` (indices), with its posterior ``weight``.

    ``scores`` [n, c] are held out; ``predict`` maps features of other rows [m, d] to scores [m, c].
    """

    encoders: tuple[int, ...]
    weight: float
    penalty: float
    scores: Float64Array
    model: NoiseModel
    predict: Callable[[Float64Array], Float64Array]


@dataclass(frozen=True, slots=True)
class Classifier:
    """Average of ``members``, weighted by the likelihood of the noisy labels.

    ``nll`` is that of the ``labelled`` noisy labels under the most likely member, ``baseline`` that under frequencies.
    """

    members: tuple[Member, ...]
    labels: Labels
    baseline: float
    labelled: int
    spaces: tuple[Space, ...]

    @property
    def nll(self) -> float:
        return min(member.model.nll for member in self.members)

    @property
    def informative(self) -> bool:
        """Whether the scores predict held-out labels better than frequencies, by 4 nats or more."""
        return (self.baseline - self.nll) * self.labelled > _NATS

    @property
    def rate(self) -> float:
        """Estimated share of wrong labels."""
        return sum(member.weight * member.model.rate for member in self.members)

    @property
    def bounds(self) -> tuple[float, float]:
        """Union of the 95% intervals of the rate, over members with a weight above 0.05."""
        models = [member.model for member in self.members if member.weight > _MIN_WEIGHT]
        return min(model.low for model in models), max(model.high for model in models)

    def held_out(self) -> tuple[Float64Array, Float64Array]:
        """Return P(true label) [n, c] of the fitted rows, without and with their own noisy label."""
        return self._weighted_mean([member.scores for member in self.members], self.labels)

    def others(
        self, vectors: Sequence[npt.ArrayLike], labels: Labels
    ) -> tuple[Float64Array, Float64Array]:
        """Return the same for other rows, from their vectors [m, d_e] per encoder."""
        features = [space.apply(x) for space, x in zip(self.spaces, vectors, strict=True)]
        scores = [
            member.predict(np.concatenate([features[i] for i in member.encoders], axis=1))
            for member in self.members
        ]
        return self._weighted_mean(scores, labels)

    def _weighted_mean(
        self, scores: Sequence[Float64Array], labels: Labels
    ) -> tuple[Float64Array, Float64Array]:
        before, after = np.zeros_like(scores[0]), np.zeros_like(scores[0])
        for member, each in zip(self.members, scores, strict=True):
            before += member.weight * member.model.probabilities(each)
            after += member.weight * member.model.posterior(each, labels)
        return before, after


def fit(
    vectors: Sequence[npt.ArrayLike],
    labels: Labels,
    groups: npt.NDArray[np.uint64],
    advance: Callable[[], object] = lambda: None,
) -> Classifier:
    """Fit a classifier on each subset of the encoders.

    Args:
        vectors: vectors [n, d_e] per encoder.
        labels: noisy labels; rows without a label are scored too.
        groups: group number of each row [n]; rows with the same query share a group.
        advance: called after each subset.
    """
    spaces = tuple(Space.of(x) for x in vectors)
    features = [space.apply(x) for space, x in zip(spaces, vectors, strict=True)]
    fitted: list[tuple[tuple[int, ...], _Fit, NoiseModel]] = []
    for chosen in subsets(len(features)):
        joined = np.concatenate([features[i] for i in chosen], axis=1)
        fitted += [(chosen, *_robust(joined, labels, groups, power)) for power in POWERS]
        advance()
    evidence = np.array([model.evidence for _, _, model in fitted])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    members = tuple(
        Member(chosen, float(weight), ridge.penalty, ridge.scores, model, ridge.predict)
        for weight, (chosen, ridge, model) in zip(weights, fitted, strict=True)
    )
    return Classifier(members, labels, frequency_nll(labels), int(labels.known.sum()), spaces)


def subsets(n: int) -> Iterator[tuple[int, ...]]:
    """Yield the subsets of ``n`` encoders to fit: all of up to three encoders, else each alone and all together."""
    sizes = range(1, n + 1) if n <= _ALL_SUBSETS else (1, n)
    for size in sizes:
        yield from combinations(range(n), size)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Ridge fit: held-out scores [n, c] of standard deviation 1, and the map from features [m, d] to scores [m, c]."""

    scores: Float64Array
    penalty: float
    predict: Callable[[Float64Array], Float64Array]


def _robust(
    features: Float64Array, labels: Labels, groups: npt.NDArray[np.uint64], power: float
) -> tuple[_Fit, NoiseModel]:
    """Fit ridge and noise model; with some trusted rows, reweight the others by the estimated noise rate and refit."""
    mixed = labels.trusted.any() and not labels.trusted[labels.known].all()
    ridge = _ridge(features, labels, groups, 0.0 if mixed else 1.0, power)
    model = noise_model.fit(ridge.scores, labels)
    for _ in range(_ROUNDS if mixed else 0):
        slope = 1 - model.rate * labels.classes / (labels.classes - 1)
        refitted = _ridge(features, labels, groups, slope, power)
        refitted_model = noise_model.fit(refitted.scores, labels)
        if refitted_model.nll < model.nll:
            ridge, model = refitted, refitted_model
    return ridge, model


def _ridge(
    features: Float64Array,
    labels: Labels,
    groups: npt.NDArray[np.uint64],
    slope: float,
    power: float,
) -> _Fit:
    """Fit weighted ridge regression on the labels; each row is scored without its group.

    ``slope`` is that of a noisy label in the true one, 1 - rho c / (c - 1). The target of a noisy label is
    (label - rho / (c - 1)) / slope with weight slope^2; that of a trusted row is its label with weight 1.
    """
    c = labels.classes
    known = labels.known
    offset = (1 - slope) / c
    weight = np.where(known, np.where(labels.trusted, 1.0, slope**2), 0.0)
    own = np.eye(c)[np.maximum(labels.codes, 0)]
    # The product of weight and target is finite even if slope is 0.
    weighted = np.where(labels.trusted[:, None], own, slope * (own - offset)) * known[:, None]
    total = weight.sum()
    mean = weight @ features / total
    intercept = weighted.sum(axis=0) / total
    x = features - mean
    values, vectors = np.linalg.eigh((x * weight[:, None]).T @ x)
    values = np.maximum(values, _TINY * max(float(values[-1]), _TINY))
    # For power > 1, the prior variance of a principal direction grows with the variance of the data in it.
    scaled = values**power * (values.sum() / (values**power).sum())
    vectors = vectors * np.sqrt(scaled / values)
    values, rotated = scaled, x @ vectors
    moment = rotated.T @ (weighted - weight[:, None] * intercept)
    shared = _shared_groups(groups)
    best: tuple[float, float, Float64Array] | None = None
    used = weight > 0
    for penalty in PENALTIES * total / len(known):
        shrinkage = 1 / (values + penalty)
        scores = _held_out(rotated, shrinkage, moment, intercept, weight, weighted, total, shared)
        # w (t - f)^2 with t = weighted / w is w f^2 - 2 weighted f, up to a constant.
        error = float((weight[:, None] * scores**2 - 2 * weighted * scores)[used].sum())
        if best is None or error < best[0]:
            best = (error, float(penalty), scores)
    assert best is not None
    _, penalty, scores = best
    centre, spread = scores.mean(axis=0), max(float(scores.std()), _TINY)
    coefficients = vectors @ (moment / (values + penalty)[:, None])

    def predict(rows: Float64Array) -> Float64Array:
        return np.asarray(((rows - mean) @ coefficients + intercept - centre) / spread)

    return _Fit((scores - centre) / spread, penalty, predict)


def _held_out(
    rotated: Float64Array,
    shrinkage: Float64Array,
    moment: Float64Array,
    intercept: Float64Array,
    weight: Float64Array,
    weighted: Float64Array,
    total: float,
    shared: Sequence[npt.NDArray[np.int64]],
) -> Float64Array:
    """Return scores [n, c], each from a fit without the row's group, by the leave-one-out formula."""
    fitted = rotated @ (shrinkage[:, None] * moment) + intercept
    leverage = (rotated**2) @ shrinkage + 1 / total
    remaining = 1 - weight * leverage
    scores = (fitted - leverage[:, None] * weighted) / np.maximum(remaining, _TINY)[:, None]
    for rows in shared:
        gram = (rotated[rows] * shrinkage) @ rotated[rows].T + 1 / total
        matrix = np.eye(len(rows)) - gram * weight[rows]
        scores[rows] = np.linalg.solve(matrix, fitted[rows] - gram @ weighted[rows])
    return np.asarray(scores)


def _shared_groups(groups: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each group with more than one row."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return [rows for rows in np.split(order, starts) if len(rows) > 1]


def _unit_rows(x: Float64Array) -> Float64Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY))
