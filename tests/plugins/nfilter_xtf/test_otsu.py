"""Multi-Otsu: five clusters by hand, brute force over all cuts, weights as repetitions."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter_xtf.otsu import multi_otsu


def variance(values, weights, cuts, bins):
    """Compute the variance of bin indices between classes by definition."""
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    span = values.max() - values.min()
    index = np.minimum(((values - values.min()) / span * bins).astype(int), bins - 1)
    group = np.searchsorted(cuts, values)
    mean = (weights * index).sum() / weights.sum()
    total = 0.0
    for k in set(group.tolist()):
        inside = group == k
        share = weights[inside].sum() / weights.sum()
        total += share * ((weights * index)[inside].sum() / weights[inside].sum() - mean) ** 2
    return total


def test_five_separated_clusters_give_the_exact_cuts():
    centres = np.array([0.125, 0.25, 0.5, 0.75, 1.0])
    values = np.concatenate([centres - 2**-6, centres, centres + 2**-6])
    cuts = multi_otsu(values, np.ones(15))
    assert cuts.tolist() == [0.1875, 0.375, 0.625, 0.875]


def test_the_cuts_follow_the_weights():
    """Of six clusters, the two with the lowest weight are merged."""
    values = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    light = multi_otsu(values, [100, 100, 100, 100, 1, 1])
    assert light == pytest.approx([0.1, 0.3, 0.5, 0.7])
    other = multi_otsu(values, [1, 1, 100, 100, 100, 100])
    assert other == pytest.approx([0.3, 0.5, 0.7, 0.9])


@settings(max_examples=60)
@given(
    values=st.lists(st.integers(0, 40), min_size=6, max_size=24, unique=True),
    seed=st.integers(0, 1000),
    classes=st.sampled_from([2, 3, 5]),
)
def test_the_dynamic_programme_equals_brute_force_at_16_bins(values, seed, classes):
    x = np.sort(np.array(values)) / 7
    w = np.random.default_rng(seed).integers(1, 9, len(x))
    span = x[-1] - x[0]
    index = np.minimum(((x - x[0]) / span * 16).astype(int), 15)
    borders = [(x[i] + x[i + 1]) / 2 for i in range(len(x) - 1) if index[i] != index[i + 1]]
    cuts = multi_otsu(x, w, classes, 16)
    if len(borders) < classes - 1:
        assert cuts is None
        return
    best = max(variance(x, w, list(c), 16) for c in combinations(borders, classes - 1))
    assert set(cuts.tolist()) <= set(borders)
    assert variance(x, w, cuts, 16) == pytest.approx(best, rel=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_a_weight_is_a_repetition_and_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=40), rng.integers(1, 5, 40)
    wanted = multi_otsu(x, w)
    assert np.array_equal(wanted, multi_otsu(np.repeat(x, w), np.ones(w.sum())))
    order = rng.permutation(40)
    assert np.array_equal(wanted, multi_otsu(x[order], w[order]))


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [1, 2, 3, 4]])
def test_too_few_values_have_no_classes(values):
    assert multi_otsu(values, np.ones(len(values))) is None
