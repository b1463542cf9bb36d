"""Nearest neighbours: those that sorting gives, cells that find nearly the same, and vectors that are no numbers."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import ModelError
from nfilter.testing import FakeContext, FakeEncoder
from nfilter_entp.neighbours import nearest
from nfilter_entp.rating.curate import Curate, CurateConfig

sys.path.insert(0, str(Path(__file__).parent))

from rated_kit import clusters, samples_of


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000), st.booleans())
def test_neighbours_are_those_that_sorting_gives(n, k, seed, some):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    voters = rng.random(n) < 0.6 if some else None
    similarity, near = nearest(vectors, k, voters)
    for row in range(n):
        others = [i for i in range(n) if i != row and (voters is None or voters[i])]
        ranked = sorted(others, key=lambda i: -float(vectors[row] @ vectors[i]))[:k]
        assert near[row, : len(ranked)].tolist() == ranked
        assert (near[row, len(ranked) :] == -1).all()
        assert np.isneginf(similarity[row, len(ranked) :]).all()
        np.testing.assert_allclose(
            similarity[row, : len(ranked)], [vectors[row] @ vectors[i] for i in ranked], atol=1e-5
        )


def test_many_texts_are_searched_in_cells_with_nearly_the_same_result():
    points, _, _ = clusters(0, 2, n=4000)
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    _, exact = nearest(vectors, 10)
    _, cells = nearest(vectors, 10, exact_up_to=100)
    _, again = nearest(vectors, 10, exact_up_to=100)
    np.testing.assert_array_equal(cells, again)
    assert not (cells == np.arange(4000)[:, None]).any()
    shared = np.mean([len(set(a) & set(b)) for a, b in zip(exact, cells, strict=True)])
    assert shared > 9.5


def test_an_encoder_whose_vectors_are_no_numbers_is_named():
    ctx = FakeContext(models={"e": FakeEncoder(lambda text: [float("nan"), 1.0])})
    with pytest.raises(ModelError, match=r"'e'.*NaN"):
        Curate(CurateConfig(encoder="e")).fit(samples_of([1, 2, 3]), ctx)
