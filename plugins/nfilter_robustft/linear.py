"""A linear classifier that learns from noisy labels: ridge regression on the vectors of one or several encoders.

Least squares is linear in the labels, so that uniform noise shrinks its scores and adds variance, and does not move
the boundary between classes; what the noise took is put back by ``noise_model``. Every row is scored by a model that
has not seen its label, nor that of any row with the same query, in closed form. The penalty is the one with the
least squared error of these scores. Subsets of the encoders are averaged by how likely they make the noisy labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from nfilter_robustft import noise_model
from nfilter_robustft.discriminant import Labels
from nfilter_robustft.noise_model import NoiseModel

Float64Array = npt.NDArray[np.float64]

POWERS = (1.0, 2.0)
PENALTIES = np.geomspace(0.1, 1000.0, 17)
_DIMENSIONS = 512
_ALL_SUBSETS = 3  # of so many encoders every subset is tried; of more, each alone and all together
_ROUNDS = 2
_NATS = 4.0
_COUNTS = 0.05
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Space:
    """How vectors of one encoder become features: centred, each dimension of variance 1, reduced, of length 1.

    At most 512 principal directions are kept.
    """

    mean: Float64Array
    scale: Float64Array
    directions: Float64Array | None

    @classmethod
    def of(cls, vectors: npt.ArrayLike) -> Space:
        """Learn the map from vectors [n, d]."""
        x = _unit(np.asarray(vectors, dtype=np.float64))
        mean = x.mean(axis=0)
        deviation = (x - mean).std(axis=0)
        scale = 1 / np.maximum(deviation, 1e-6 * max(float(deviation.max()), _TINY))
        x = (x - mean) * scale
        directions = None
        if x.shape[1] > _DIMENSIONS:
            directions = np.linalg.eigh(x.T @ x)[1][:, -_DIMENSIONS:]
        return cls(mean, scale, directions)

    def apply(self, vectors: npt.ArrayLike) -> Float64Array:
        """Features [n, at most 512]."""
        x = (_unit(np.asarray(vectors, dtype=np.float64)) - self.mean) * self.scale
        return _unit(x if self.directions is None else x @ self.directions)


@dataclass(frozen=True, slots=True)
class Member:
    """A classifier on the vectors of the ``encoders`` at these positions, and its posterior ``weight`` among all.

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
    """The mean of ``members``, weighted by how likely they make the noisy labels.

    ``baseline`` is the nll of the ``labelled`` noisy labels under their frequencies, ``nll`` that of the likeliest member.
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
        """Whether the scores foretell held-out labels better than their frequencies do, by 4 nats or more."""
        return (self.baseline - self.nll) * self.labelled > _NATS

    @property
    def rate(self) -> float:
        """The share of wrong labels."""
        return sum(member.weight * member.model.rate for member in self.members)

    @property
    def bounds(self) -> tuple[float, float]:
        """What holds the rate at 95% for every member that counts."""
        counted = [member.model for member in self.members if member.weight > _COUNTS]
        return min(model.low for model in counted), max(model.high for model in counted)

    def held_out(self) -> tuple[Float64Array, Float64Array]:
        """P(true label) of each fitted row [n, c] without its own label, and given it."""
        return self._mean([member.scores for member in self.members], self.labels)

    def others(
        self, vectors: Sequence[npt.ArrayLike], labels: Labels
    ) -> tuple[Float64Array, Float64Array]:
        """The same for rows that were not fitted, from their vectors for each encoder [m, d_e]."""
        features = [space.apply(x) for space, x in zip(self.spaces, vectors, strict=True)]
        scores = [
            member.predict(np.concatenate([features[i] for i in member.encoders], axis=1))
            for member in self.members
        ]
        return self._mean(scores, labels)

    def _mean(
        self, scores: Sequence[Float64Array], labels: Labels
    ) -> tuple[Float64Array, Float64Array]:
        before, after = np.zeros_like(scores[0]), np.zeros_like(scores[0])
        for member, each in zip(self.members, scores, strict=True):
            before += member.weight * member.model.probabilities(each)
            after += member.weight * member.model.given(each, labels)
        return before, after


def fit(
    vectors: Sequence[npt.ArrayLike],
    labels: Labels,
    groups: npt.NDArray[np.uint64],
    advance: Callable[[], object] = lambda: None,
) -> Classifier:
    """Fit a classifier to each subset of the encoders.

    Args:
        vectors: for each encoder [n, d_e].
        labels: noisy labels, -1 for rows without one, which are scored all the same.
        groups: rows that ask the same thing share a number [n].
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
        Member(chosen, float(weight), found.penalty, found.scores, model, found.predict)
        for weight, (chosen, found, model) in zip(weights, fitted, strict=True)
    )
    counts = np.bincount(labels.codes[labels.known], minlength=labels.classes)
    shares = counts[counts > 0] / max(1, counts.sum())
    baseline = float(-(shares * np.log(shares)).sum())
    return Classifier(members, labels, baseline, int(counts.sum()), spaces)


def subsets(n: int) -> Iterator[tuple[int, ...]]:
    """Which of ``n`` encoders are tried together: every subset of up to three; of more, each alone and all."""
    sizes = range(1, n + 1) if n <= _ALL_SUBSETS else (1, n)
    for size in sizes:
        yield from combinations(range(n), size)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Held-out scores [n, c] of standard deviation 1, and the map from features [m, d] to scores [m, c]."""

    scores: Float64Array
    penalty: float
    predict: Callable[[Float64Array], Float64Array]


def _robust(
    features: Float64Array, labels: Labels, groups: npt.NDArray[np.uint64], power: float
) -> tuple[_Fit, NoiseModel]:
    """Where some rows are trusted, the others weigh what a label is worth at their noise rate, found in rounds."""
    mixed = labels.trusted.any() and not labels.trusted[labels.known].all()
    found = _ridge(features, labels, groups, 0.0 if mixed else 1.0, power)
    model = noise_model.fit(found.scores, labels)
    for _ in range(_ROUNDS if mixed else 0):
        worth = 1 - model.rate * labels.classes / (labels.classes - 1)
        again = _ridge(features, labels, groups, worth, power)
        fitted = noise_model.fit(again.scores, labels)
        if fitted.nll < model.nll:
            found, model = again, fitted
    return found, model


def _ridge(
    features: Float64Array,
    labels: Labels,
    groups: npt.NDArray[np.uint64],
    worth: float,
    power: float,
) -> _Fit:
    """Weighted ridge regression on the labels, each row scored without its group.

    ``worth`` is the slope of a noisy label in the true one, 1 - rho c / (c - 1): its target is (label - rho / (c - 1)) /
    worth with weight worth squared, that of a trusted row the label with weight 1.
    """
    c = labels.classes
    known = labels.known
    slip = (1 - worth) / c
    weight = np.where(known, np.where(labels.trusted, 1.0, worth**2), 0.0)
    own = np.eye(c)[np.maximum(labels.codes, 0)]
    # The product of weight and target, which stays finite where worth is 0.
    pull = np.where(labels.trusted[:, None], own, worth * (own - slip)) * known[:, None]
    total = weight.sum()
    mean = weight @ features / total
    middle = pull.sum(axis=0) / total
    x = features - mean
    values, vectors = np.linalg.eigh((x * weight[:, None]).T @ x)
    values = np.maximum(values, _TINY * max(float(values[-1]), _TINY))
    # A prior variance of each principal direction that grows with what the data vary in it, for power over 1.
    bent = values**power * (values.sum() / (values**power).sum())
    vectors = vectors * np.sqrt(bent / values)
    values, turned = bent, x @ vectors
    moment = turned.T @ (pull - weight[:, None] * middle)
    shared = _shared(groups)
    best: tuple[float, float, Float64Array] | None = None
    used = weight > 0
    for penalty in PENALTIES * total / len(known):
        shrunk = 1 / (values + penalty)
        scores = _held_out(turned, shrunk, moment, middle, weight, pull, total, shared)
        # w (t - f)^2 without t, which is pull / w: up to a constant w f^2 - 2 pull f.
        error = float((weight[:, None] * scores**2 - 2 * pull * scores)[used].sum())
        if best is None or error < best[0]:
            best = (error, float(penalty), scores)
    assert best is not None
    _, penalty, scores = best
    centre, spread = scores.mean(axis=0), max(float(scores.std()), _TINY)
    coefficients = vectors @ (moment / (values + penalty)[:, None])

    def predict(rows: Float64Array) -> Float64Array:
        return np.asarray(((rows - mean) @ coefficients + middle - centre) / spread)

    return _Fit((scores - centre) / spread, penalty, predict)


def _held_out(
    turned: Float64Array,
    shrunk: Float64Array,
    moment: Float64Array,
    middle: Float64Array,
    weight: Float64Array,
    pull: Float64Array,
    total: float,
    shared: Sequence[npt.NDArray[np.int64]],
) -> Float64Array:
    """Scores [n, c], each from a fit without the row's group, by the formula of left-out rows."""
    fitted = turned @ (shrunk[:, None] * moment) + middle
    leverage = (turned**2) @ shrunk + 1 / total
    left = 1 - weight * leverage
    scores = (fitted - leverage[:, None] * pull) / np.maximum(left, _TINY)[:, None]
    for rows in shared:
        gram = (turned[rows] * shrunk) @ turned[rows].T + 1 / total
        inside = np.eye(len(rows)) - gram * weight[rows]
        scores[rows] = np.linalg.solve(inside, fitted[rows] - gram @ pull[rows])
    return np.asarray(scores)


def _shared(groups: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
    """The rows of each group that has several."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return [rows for rows in np.split(order, starts) if len(rows) > 1]


def _unit(x: Float64Array) -> Float64Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY))
