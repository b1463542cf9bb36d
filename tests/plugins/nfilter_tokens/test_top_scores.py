"""Selection of the highest scores equals a stable sort for any ties, and uses little memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nfilter_tokens.top_scores import find_cut, highest, keys_of

ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38], np.float32)


def by_sorting(scores, keep):
    """Select by definition: the first ``keep`` of a stable sort, score descending, NaN last."""
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:keep]] = True
    return kept


def test_ten_thousand_random_cases_with_ties():
    rng = np.random.default_rng(0)
    for case in range(10_000):
        n = int(rng.integers(0, 60))
        values = rng.normal(size=max(1, int(rng.integers(1, 12)))).astype(np.float32)
        scores = rng.choice(np.concatenate([values, ODD]) if case % 3 else values, n)
        keep = int(rng.integers(0, n + 2))
        np.testing.assert_array_equal(highest(scores, keep), by_sorting(scores, keep))


@settings(max_examples=300, deadline=None)
@given(scores=arrays(np.float32, st.integers(0, 40)), share=st.floats(0, 1))
def test_arbitrary_floats(scores, share):
    keep = int(len(scores) * share)
    np.testing.assert_array_equal(highest(scores, keep), by_sorting(scores, keep))


def test_keys_are_in_the_order_of_the_numbers():
    rows = np.sort(
        np.concatenate([np.random.default_rng(1).normal(size=999), ODD[1:]]).astype(np.float32)
    )
    keys = keys_of(rows)
    assert (np.diff(keys.astype(np.int64)) >= 0).all()
    assert ((np.diff(keys.astype(np.int64)) == 0) == (np.diff(rows) == 0)).all()
    assert keys_of(np.array([np.nan], np.float32)) == 0


@pytest.mark.parametrize("split", [1, 3, 1000])
def test_the_cut_does_not_depend_on_how_scores_are_split(split):
    scores = np.random.default_rng(2).integers(0, 50, 5000).astype(np.float32)
    assert find_cut(np.array_split(scores, split), 1234) == find_cut([scores], 1234)


def test_memory_is_a_few_blocks_at_any_size():
    """Sixteen million equal scores: the worst case for ties at the cut."""
    scores = np.zeros(2**24, dtype=np.float32)
    tracemalloc.start()
    cut = find_cut([scores], 2**23)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cut.ties == 2**23
    assert peak < scores.nbytes  # in addition to the scores
