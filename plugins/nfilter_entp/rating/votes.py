"""Neighbours' votes on a rating: vote counts, class probabilities, and the ratings to change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nfilter import BoolArray, FloatArray, IntArray
from nfilter_entp.rating.transition import Array, Transition

_PSEUDO_COUNT = 0.5
_MIN_PROBABILITY = 1e-3  # lower bound of probabilities: one odd neighbour must not decide alone


def count_votes(
    similarity: FloatArray, near: IntArray, labels: npt.NDArray[np.int64], classes: int
) -> Array:
    """Return the votes [n, K] of the neighbours ``near`` [n, k] (-1: none), weighted by similarity, scaled to sum to their number.

    ``labels`` [n] are the classes of all rows, in 0..K-1. A neighbour with negative similarity has no vote.
    """
    n = len(near)
    present = near >= 0
    weights = np.where(present, np.maximum(similarity, 0.0), 0.0).astype(np.float64)
    code = np.arange(n)[:, None] * classes + np.where(present, labels[near], 0)
    votes = np.bincount(code.ravel(), weights.ravel(), minlength=n * classes).reshape(n, classes)
    total = votes.sum(axis=1, keepdims=True)
    scale = present.sum(axis=1, keepdims=True) / np.where(total > 0, total, 1.0)
    return np.asarray(votes * scale)


def probabilities(
    votes: Array, given: npt.NDArray[np.int64], fit: Transition, texts: int = 0
) -> Array:
    """Return P(true class | rating, neighbours' ratings), [n, K], all ratings drawn from one row of T.

    log P(y | ...) = log p_y + log T_{y, given} + sum_i votes_i log T_{y, i} + constant

    ``texts``: number of texts T was estimated from, 0 if it was stated. Half a rating is added to each of its cells (Jeffreys'
    prior), since an event that a few texts never showed is not impossible.
    """
    counts = texts * fit.p[:, None]
    t = (counts * fit.t + _PSEUDO_COUNT) / (counts + _PSEUDO_COUNT * len(fit.p)) if texts else fit.t
    log_t = np.log(np.maximum(t, _MIN_PROBABILITY))
    scores = np.log(np.maximum(fit.p, _MIN_PROBABILITY)) + log_t[:, given].T + votes @ log_t.T
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def agreement(votes: Array, given: npt.NDArray[np.int64]) -> Array:
    """Return DS2's kNN score [n]: cosine of the votes [n, K] and the one-hot rating; 0 without votes."""
    lengths = np.linalg.norm(votes, axis=1)
    own = votes[np.arange(len(votes)), given]
    return np.asarray(np.divide(own, lengths, out=np.zeros_like(own), where=lengths > 0))


def lowest_scores(
    scores: Array, given: npt.NDArray[np.int64], rates: Array, ids: npt.NDArray[np.uint64]
) -> BoolArray:
    """Return the mask [n] of the lowest scores [n]: a share ``rates`` [K] of each class, ties by id."""
    worst: BoolArray = np.zeros(len(scores), dtype=np.bool_)
    for label, rate in enumerate(rates):
        rows = np.flatnonzero(given == label)
        order = np.lexsort((ids[rows], scores[rows]))
        worst[rows[order[: int(rate * len(rows) + 0.5)]]] = True
    return worst
