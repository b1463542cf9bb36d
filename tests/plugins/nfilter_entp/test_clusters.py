"""Clusters of a cosine graph: planted cliques come back, silhouette finds their threshold, MMR is what its formula says."""

import random

import numpy as np
import pytest

from nfilter_entp.mixing.clusters import GRID, Near, best_tau, clusters, mmr
from nfilter_entp.neighbours import nearest


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cliques(sizes, *, d=48, spread=0.25, seed=0):
    """Unit vectors around one axis a clique, and the clique of each."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(d)[label] + spread * rng.normal(size=(len(label), d)) / np.sqrt(d)
    order = rng.permutation(len(label))
    return unit(rows[order]), label[order]


def near_of(vectors, k=32):
    return Near(*nearest(vectors, k))


def groups(label):
    return {frozenset(np.flatnonzero(label == each).tolist()) for each in set(label.tolist())}


def brute(vectors, tau, size, tie):
    """The same rule with all pairs, one step at a time."""
    alike = vectors.astype(np.float64) @ vectors.T
    n = len(vectors)
    linked = [[j for j in range(n) if j != i and alike[i, j] >= tau] for i in range(n)]
    taken, found = set(), set()
    for seed in sorted(range(n), key=lambda i: (-len(linked[i]), tie[i])):
        if seed not in taken:
            free = sorted(
                (j for j in linked[seed] if j not in taken), key=lambda j: -alike[seed, j]
            )
            group = frozenset([seed, *free[: size - 1]])
            found.add(group)
            taken |= group
    return found


def test_planted_cliques_become_exactly_the_clusters():
    vectors, planted = cliques([5, 9, 2, 1, 25])
    found = clusters(near_of(vectors), 0.7, 25, np.arange(len(vectors)))
    assert groups(found) == groups(planted)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8, 0.9])
def test_seeds_take_their_free_neighbours_by_degree(tau):
    rng = np.random.default_rng(3)
    vectors = unit(rng.normal(size=(60, 4)))
    tie = rng.permutation(60)
    found = clusters(near_of(vectors, 59), tau, 7, tie)
    assert groups(found) == brute(vectors, tau, 7, tie)


def test_a_cluster_has_at_most_its_size_and_takes_the_nearest_first():
    angles = np.radians([0, 4, 8, 12, 16, 20])
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    # All six are neighbours, so the seeds are the first by tie of those that are left: 2, then 5, which has 4 and 3... taken.
    found = clusters(near_of(vectors), 0.5, 3, np.array([5, 4, 0, 3, 2, 1]))
    assert groups(found) == {frozenset({1, 2, 3}), frozenset({5, 4, 0})}


def test_ties_between_seeds_go_by_rank():
    vectors = unit(np.eye(4)[[0, 0, 1, 1]] + 1e-3 * np.arange(16).reshape(4, 4))
    first = clusters(near_of(vectors), 0.9, 25, np.array([0, 1, 2, 3]))
    last = clusters(near_of(vectors), 0.9, 25, np.array([3, 2, 1, 0]))
    assert first.tolist() == [0, 0, 1, 1]
    assert last.tolist() == [1, 1, 0, 0]


def test_silhouette_finds_the_threshold_that_separates_the_cliques():
    # Two levels: cliques of like vectors, in families that are loosely alike (cosine of about 0.5).
    rng = np.random.default_rng(0)
    family, member = np.repeat(np.arange(6), 20), np.repeat(np.arange(24), 5)
    rows = np.zeros((120, 64))
    rows[np.arange(120), family] = 1.0
    rows[np.arange(120), 6 + member] = 1.0
    vectors = unit(rows + 0.05 * rng.normal(size=rows.shape))
    tau, tried = best_tau(vectors, near_of(vectors), 25, np.arange(120), 2000, random.Random(0))
    assert groups(clusters(near_of(vectors), tau, 25, np.arange(120))) == groups(member)
    assert set(tried) == set(GRID)
    assert tried[tau] == max(tried.values())
    assert tried[0.3] < tried[tau] > tried[0.95]
    # Independent of scikit-learn: s = (b - a) / max(a, b), by hand for each vector.
    distance = 1 - vectors.astype(np.float64) @ vectors.T
    by_hand = []
    for i in range(120):
        mine = (member == member[i]) & (np.arange(120) != i)
        a = distance[i, mine].mean()
        b = min(distance[i, member == other].mean() for other in set(member) - {member[i]})
        by_hand.append((b - a) / max(a, b))
    assert tried[tau] == pytest.approx(np.mean(by_hand), abs=1e-6)


@pytest.mark.parametrize("k", [5, 32])
def test_a_sample_keeps_neighbours_together_and_finds_the_same_threshold(k):
    vectors, planted = cliques([6] * 200, d=256)
    whole = best_tau(vectors, near_of(vectors, k), 25, np.arange(1200), 2000, random.Random(0))
    part = best_tau(vectors, near_of(vectors, k), 25, np.arange(1200), 300, random.Random(0))
    assert part[0] == whole[0]
    assert part[1][part[0]] == pytest.approx(whole[1][whole[0]], abs=0.02)
    assert groups(clusters(near_of(vectors, k), part[0], 25, np.arange(1200))) == groups(planted)


def test_without_any_neighbour_every_text_is_alone():
    vectors = np.eye(5, dtype=np.float32)
    tau, tried = best_tau(vectors, near_of(vectors), 25, np.arange(5), 100, random.Random(0))
    assert tau == GRID[0]
    assert set(tried.values()) == {0.0}
    assert len(set(clusters(near_of(vectors), tau, 25, np.arange(5)).tolist())) == 5


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
def test_mmr_is_its_formula(weight):
    rng = np.random.default_rng(1)
    vectors = unit(rng.normal(size=(12, 5)) + 1)
    rows = vectors.astype(np.float64)
    centre = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    order = []
    while len(order) < 12:
        best = max(
            (i for i in range(12) if i not in order),
            key=lambda i: (
                weight * (rows[i] @ centre)
                - (1 - weight) * max((rows[i] @ rows[j] for j in order), default=0.0)
            ),
        )
        order.append(best)
    assert mmr(vectors, np.arange(12), weight) == order


def test_mmr_settles_equals_by_rank():
    vectors = unit(np.ones((4, 3)))
    assert mmr(vectors, np.array([2, 0, 3, 1]), 0.7) == [1, 3, 0, 2]
