"""One-hop clusters of a cosine similarity graph, their threshold by silhouette, and an MMR order within each (ENTP, pairing).

The graph links a text to those of its nearest others with similarity ``tau`` or more; not all pairs are compared. ``tie`` is
a rank of the texts that breaks ties, so that results do not depend on the order of rows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfilter import FloatArray, IntArray
from nfilter_entp.neighbours import nearest

GRID = tuple(round(0.30 + 0.05 * step, 2) for step in range(14))  # 0.30, 0.35, ..., 0.95
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Near:
    """The k nearest others of n texts, nearest first: ``similarity`` float32 [n, k] and ``index`` int64 [n, k], -1 for none."""

    similarity: FloatArray
    index: IntArray

    def sort_ties(self, tie: IntArray) -> None:
        """Sort neighbours of equal similarity by ``tie``, in place."""
        for start in range(0, len(self.index), _BLOCK):
            rows = slice(start, start + _BLOCK)
            order = np.lexsort((tie[self.index[rows]], -self.similarity[rows]), axis=1)
            for values in (self.similarity, self.index):
                values[rows] = np.take_along_axis(values[rows], order, axis=1)

    def within(self, chosen: IntArray) -> Near:
        """Restrict to the texts at ``chosen`` [m], with neighbours as indices into it."""
        index_of = np.full(len(self.index) + 1, -1, dtype=np.int64)  # + 1: index -1 maps to -1
        index_of[chosen] = np.arange(len(chosen))
        index = index_of[self.index[chosen]]
        return Near(np.where(index >= 0, self.similarity[chosen], -np.inf), index)


def clusters(near: Near, tau: float, size: int, tie: IntArray) -> npt.NDArray[np.int32]:
    """Return a cluster number per text, int32 [n]: a seed and its nearest one-hop neighbours without a cluster.

    Seeds are taken by degree (number of texts that list it as neighbour), ties by ``tie``. A cluster has at most ``size`` texts.
    """
    linked = (near.similarity >= tau) & (near.index >= 0)
    degree = np.bincount(near.index[linked], minlength=len(tie))
    label = np.full(len(tie), -1, dtype=np.int32)
    number = 0
    for seed in np.lexsort((tie, -degree)):
        if label[seed] >= 0:
            continue
        label[seed] = number
        neighbours = near.index[seed][linked[seed]]
        label[neighbours[label[neighbours] < 0][: size - 1]] = number
        number += 1
    return label


def cluster_all(
    vectors: FloatArray, near: Near, tau: float, size: int, tie: IntArray, exact_up_to: int
) -> npt.NDArray[np.int32]:
    """Return clusters, int32 [n]; cluster the linked singletons again until no more join.

    Needed because in a clique with more texts than links all neighbours of a text may be taken. ``vectors`` [n, d] are unit vectors.
    """
    label = clusters(near, tau, size, tie)
    links = near.index.shape[1]
    singletons = _singletons(label)
    singletons = singletons[(near.similarity[singletons] >= tau).any(axis=1)]
    while len(singletons) > 1:
        near_again = Near(*nearest(vectors[singletons], links, exact_up_to=exact_up_to))
        near_again.sort_ties(tie[singletons])
        partition = clusters(near_again, tau, size, tie[singletons])
        # A merged cluster takes the number of its first text, a former singleton.
        _, first, number = np.unique(partition, return_index=True, return_inverse=True)
        label[singletons] = label[singletons[first]][number]
        remaining = _singletons(partition)
        if len(remaining) == len(singletons):
            break
        singletons = singletons[remaining[(near_again.similarity[remaining] >= tau).any(axis=1)]]
    return np.unique(label, return_inverse=True)[1].astype(np.int32)


def _singletons(label: npt.NDArray[np.int32]) -> IntArray:
    """Return the indices of singletons."""
    return np.flatnonzero(np.bincount(label, minlength=1)[label] == 1)


def best_tau(
    vectors: FloatArray, near: Near, size: int, tie: IntArray, sample: int, rng: random.Random
) -> tuple[float, Mapping[float, float]]:
    """Return the threshold of ``GRID`` with the highest mean silhouette (cosine distance), the lowest on ties; and all silhouettes.

    ``vectors`` [n, d] are unit vectors. Evaluated on ``sample`` texts: random texts with their neighbours, since texts drawn
    independently would lose their clusters. Singletons count 0 (Rousseeuw 1987).
    """
    chosen = _neighbourhoods(near, tie, sample, rng)
    subset = near.within(chosen)
    rows = vectors[chosen].astype(np.float64)
    distance = np.clip(1.0 - rows @ rows.T, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    silhouettes = {
        tau: _silhouette(distance, clusters(subset, tau, size, tie[chosen])) for tau in GRID
    }
    return max(GRID, key=lambda tau: (round(silhouettes[tau], 9), -tau)), silhouettes


def _neighbourhoods(near: Near, tie: IntArray, count: int, rng: random.Random) -> IntArray:
    """Return at most ``count`` indices: random texts, each followed by the neighbours that the lowest threshold links."""
    if len(tie) <= count:
        return np.arange(len(tie))
    order = np.argsort(tie).tolist()
    rng.shuffle(order)
    chosen: dict[int, None] = {}
    for centre in order:
        if len(chosen) >= count:
            break
        neighbours = near.index[centre][near.similarity[centre] >= GRID[0]].tolist()
        chosen.update(dict.fromkeys([centre, *neighbours]))
    return np.sort(np.fromiter(chosen, dtype=np.int64)[:count])


def _silhouette(distance: npt.NDArray[np.float64], label: npt.NDArray[np.int32]) -> float:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(label)) < len(label):
        return 0.0
    return float(silhouette_score(distance, label, metric="precomputed"))


def mmr(vectors: FloatArray, tie: IntArray, weight: float) -> list[int]:
    """Order ``vectors`` [m, d] by maximal marginal relevance, most representative first (Carbonell, Goldstein 1998).

    Each next index maximizes ``weight`` * cos(it, centre) - (1 - ``weight``) * max cos(it, earlier ones), ties by ``tie``.
    """
    rows = vectors.astype(np.float64)
    centre = rows.mean(axis=0)
    relevance = rows @ (centre / (np.linalg.norm(centre) or 1.0))
    similarity = rows @ rows.T
    order: list[int] = []
    remaining = np.argsort(tie).tolist()
    while remaining:
        redundant = (
            similarity[np.ix_(remaining, order)].max(axis=1) if order else np.zeros(len(remaining))
        )
        score = weight * relevance[remaining] - (1.0 - weight) * redundant
        # Rounded, so that rounding errors of equal sums do not break ties; then the first by tie.
        order.append(remaining.pop(int(np.argmax(np.round(score, 9)))))
    return order
