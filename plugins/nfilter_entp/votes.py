"""What a rating's neighbours say of it: votes, the probability of each class, and which ratings to change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nfilter import BoolArray, FloatArray, IntArray
from nfilter_entp.transition import Array, Transition

_ADDED = 0.5
_FLOOR = 1e-3  # no fitted transition is impossible: one odd neighbour must not decide alone


def counted(
    similarity: FloatArray, near: IntArray, labels: npt.NDArray[np.int64], classes: int
) -> Array:
    """Votes [n, K] of the neighbours ``near`` [n, k] (-1: none), by similarity, with the sum of their number.

    ``labels`` [n] are theirs, in 0..K-1. A neighbour that points the other way has no vote.
    """
    n = len(near)
    there = near >= 0
    weights = np.where(there, np.maximum(similarity, 0.0), 0.0).astype(np.float64)
    code = np.arange(n)[:, None] * classes + np.where(there, labels[near], 0)
    votes = np.bincount(code.ravel(), weights.ravel(), minlength=n * classes).reshape(n, classes)
    total = votes.sum(axis=1, keepdims=True)
    scale = there.sum(axis=1, keepdims=True) / np.where(total > 0, total, 1.0)
    return np.asarray(votes * scale)


def probabilities(
    votes: Array, given: npt.NDArray[np.int64], fit: Transition, texts: int = 0
) -> Array:
    """P(true class | rating, neighbours' ratings) as [n, K], all of them drawn from one row of T.

    log P(y | ...) = log p_y + log T_{y, given} + sum_i votes_i log T_{y, i} + constant

    ``texts``: from how many T was estimated, 0 where it was stated. Half a rating is added to each of its cells (Jeffreys'
    prior), as what a few texts never showed is not impossible.
    """
    seen = texts * fit.p[:, None]
    t = (seen * fit.t + _ADDED) / (seen + _ADDED * len(fit.p)) if texts else fit.t
    log_t = np.log(np.maximum(t, _FLOOR))
    scores = np.log(np.maximum(fit.p, _FLOOR)) + log_t[:, given].T + votes @ log_t.T
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def agreement(votes: Array, given: npt.NDArray[np.int64]) -> Array:
    """DS2's kNN score [n]: the cosine of the votes [n, K] and the rating as a one-hot vector; 0 without votes."""
    lengths = np.linalg.norm(votes, axis=1)
    own = votes[np.arange(len(votes)), given]
    return np.asarray(np.divide(own, lengths, out=np.zeros_like(own), where=lengths > 0))


def tail(
    scores: Array, given: npt.NDArray[np.int64], rates: Array, ids: npt.NDArray[np.uint64]
) -> BoolArray:
    """Of each class the share ``rates`` [K] with the lowest scores [n], ties by id."""
    worst: BoolArray = np.zeros(len(scores), dtype=np.bool_)
    for label, rate in enumerate(rates):
        rows = np.flatnonzero(given == label)
        order = np.lexsort((ids[rows], scores[rows]))
        worst[rows[order[: int(rate * len(rows) + 0.5)]]] = True
    return worst
