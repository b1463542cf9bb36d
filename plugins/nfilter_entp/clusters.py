"""One-hop clusters of a cosine graph, their threshold by silhouette, and an order in each by MMR (ENTP, pairing).

The graph has an edge from a text to each of its nearest others that is at ``tau`` or above: never all pairs. ``tie`` is
a rank of the texts that settles every draw, so that nothing depends on the order of rows.
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
    """The k nearest others of n texts: ``similarity`` float32 [n, k], nearest first, and ``place`` int64 [n, k], -1 for none."""

    similarity: FloatArray
    place: IntArray

    def settle(self, tie: IntArray) -> None:
        """Put equals in the order of ``tie``, not in that in which a search came by them; in place, as these are large."""
        for start in range(0, len(self.place), _BLOCK):
            rows = slice(start, start + _BLOCK)
            order = np.lexsort((tie[self.place[rows]], -self.similarity[rows]), axis=1)
            for values in (self.similarity, self.place):
                values[rows] = np.take_along_axis(values[rows], order, axis=1)

    def within(self, chosen: IntArray) -> Near:
        """The same for the texts at ``chosen`` [m] alone, counted by their places in it."""
        seat = np.full(len(self.place) + 1, -1, dtype=np.int64)  # one more: -1 stays -1
        seat[chosen] = np.arange(len(chosen))
        place = seat[self.place[chosen]]
        return Near(np.where(place >= 0, self.similarity[chosen], -np.inf), place)


def clusters(near: Near, tau: float, size: int, tie: IntArray) -> npt.NDArray[np.int32]:
    """A cluster's number for each text, int32 [n]: a seed and its nearest one-hop neighbours that no cluster has yet.

    Seeds come by degree (of how many texts it is a neighbour), ties by ``tie``. A cluster has at most ``size`` texts.
    """
    linked = (near.similarity >= tau) & (near.place >= 0)
    degree = np.bincount(near.place[linked], minlength=len(tie))
    label = np.full(len(tie), -1, dtype=np.int32)
    number = 0
    for seed in np.lexsort((tie, -degree)):
        if label[seed] >= 0:
            continue
        label[seed] = number
        around = near.place[seed][linked[seed]]
        label[around[label[around] < 0][: size - 1]] = number
        number += 1
    return label


def gathered(
    vectors: FloatArray, near: Near, tau: float, size: int, tie: IntArray, exact_up_to: int
) -> npt.NDArray[np.int32]:
    """Clusters, int32 [n], and again clusters of those that had neighbours and were left alone, until none joins.

    In a clique larger than the number of links all links of a text may be taken. ``vectors`` [n, d] are unit vectors.
    """
    label = clusters(near, tau, size, tie)
    links = near.place.shape[1]
    left = _alone(label)
    left = left[(near.similarity[left] >= tau).any(axis=1)]
    while len(left) > 1:
        again = Near(*nearest(vectors[left], links, exact_up_to=exact_up_to))
        again.settle(tie[left])
        part = clusters(again, tau, size, tie[left])
        # A cluster takes the number of its first text, which was alone under it.
        _, first, number = np.unique(part, return_index=True, return_inverse=True)
        label[left] = label[left[first]][number]
        alone = _alone(part)
        if len(alone) == len(left):
            break
        left = left[alone[(again.similarity[alone] >= tau).any(axis=1)]]
    return np.unique(label, return_inverse=True)[1].astype(np.int32)


def _alone(label: npt.NDArray[np.int32]) -> IntArray:
    """The places of those whose cluster has no other."""
    return np.flatnonzero(np.bincount(label, minlength=1)[label] == 1)


def best_tau(
    vectors: FloatArray, near: Near, size: int, tie: IntArray, sample: int, rng: random.Random
) -> tuple[float, Mapping[float, float]]:
    """The threshold of ``GRID`` with the highest mean silhouette (cosine distance), the lowest of equals; and all of them.

    ``vectors`` [n, d] are unit vectors. ``sample`` texts are looked at: texts drawn at random, each with its nearest, as
    texts drawn alone would have lost their clusters. A text alone in its cluster counts 0 (Rousseeuw 1987).
    """
    chosen = _neighbourhoods(near, tie, sample, rng)
    part = near.within(chosen)
    rows = vectors[chosen].astype(np.float64)
    distance = np.clip(1.0 - rows @ rows.T, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    found = {tau: _silhouette(distance, clusters(part, tau, size, tie[chosen])) for tau in GRID}
    return max(GRID, key=lambda tau: (round(found[tau], 9), -tau)), found


def _neighbourhoods(near: Near, tie: IntArray, count: int, rng: random.Random) -> IntArray:
    """At most ``count`` places: texts at random, each followed by its nearest, as far as any threshold links them."""
    if len(tie) <= count:
        return np.arange(len(tie))
    order = np.argsort(tie).tolist()
    rng.shuffle(order)
    chosen: dict[int, None] = {}
    for centre in order:
        if len(chosen) >= count:
            break
        around = near.place[centre][near.similarity[centre] >= GRID[0]].tolist()
        chosen.update(dict.fromkeys([centre, *around]))
    return np.sort(np.fromiter(chosen, dtype=np.int64)[:count])


def _silhouette(distance: npt.NDArray[np.float64], label: npt.NDArray[np.int32]) -> float:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(label)) < len(label):
        return 0.0
    return float(silhouette_score(distance, label, metric="precomputed"))


def mmr(vectors: FloatArray, tie: IntArray, weight: float) -> list[int]:
    """Places of ``vectors`` [m, d], the most representative first, by maximal marginal relevance (Carbonell, Goldstein 1998).

    Each next one has the highest ``weight`` * cos(it, centre) - (1 - ``weight``) * max cos(it, those before), ties by ``tie``.
    """
    rows = vectors.astype(np.float64)
    centre = rows.mean(axis=0)
    relevance = rows @ (centre / (np.linalg.norm(centre) or 1.0))
    alike = rows @ rows.T
    order: list[int] = []
    left = np.argsort(tie).tolist()
    while left:
        redundant = alike[np.ix_(left, order)].max(axis=1) if order else np.zeros(len(left))
        worth = weight * relevance[left] - (1.0 - weight) * redundant
        # Rounded, since the last digits of equal sums differ; then the first of equals by tie.
        order.append(left.pop(int(np.argmax(np.round(worth, 9)))))
    return order
