"""Selection of the highest scores equals a stable sort for any ties, and uses little memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nfilter import TokenCut, TokenSample, hash_of
from nfilter.api import stored_scores
from nfilter.api.token_selection import find_threshold, highest_scores, keys_of

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
        np.testing.assert_array_equal(highest_scores(scores, keep), by_sorting(scores, keep))


@settings(max_examples=300)
@given(scores=arrays(np.float32, st.integers(0, 40)), share=st.floats(0, 1))
def test_arbitrary_floats(scores, share):
    keep = int(len(scores) * share)
    np.testing.assert_array_equal(highest_scores(scores, keep), by_sorting(scores, keep))


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
    assert find_threshold(np.array_split(scores, split), 1234) == find_threshold([scores], 1234)


def test_memory_is_a_few_blocks_at_any_size():
    """Sixteen million equal scores: the worst case for ties at the cut."""
    scores = np.zeros(2**24, dtype=np.float32)
    tracemalloc.start()
    cut = find_threshold([scores], 2**23)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cut.ties == 2**23
    assert peak < scores.nbytes  # in addition to the scores


def in_samples(scores, size):
    """Yield samples of ``size`` tokens each; the last one has the rest."""
    for at in range(0, len(scores), size):
        part = scores[at : at + size]
        n = len(part)
        yield TokenSample(
            id=f"s{at}", ids=np.zeros(n, np.int64), response=np.ones(n, bool), turn=np.zeros(n, np.int16),
            spans=np.zeros((n, 2), np.int32), weights=np.ones(n, np.float32), scores={"excess": part},
        )  # fmt: skip


def score(sample):
    return sample.scores["excess"]


@pytest.mark.parametrize("in_memory", [1, 2**16, 2**30])
@pytest.mark.parametrize("k", [0.0, 0.37, 0.9995, 1.0])
def test_a_million_scores_of_many_samples_are_cut_as_by_a_stable_sort(in_memory, k, monkeypatch):
    monkeypatch.setattr(stored_scores, "IN_MEMORY", in_memory)
    rng = np.random.default_rng(3)
    scores = rng.normal(size=10**6).astype(np.float32)
    scores[rng.random(10**6) < 0.4] = np.float32(
        0.25
    )  # a tie of 400,000, above and below other scores
    scores[rng.random(10**6) < 0.1] = np.nan
    scores[rng.integers(0, 10**6, 900)] = rng.choice(ODD, 900)
    cut = TokenCut.through(in_samples(scores, 4999), score, lambda n: int(n * k))
    kept = np.concatenate([cut.keeps(sample, score) for sample in in_samples(scores, 4999)])
    np.testing.assert_array_equal(kept, by_sorting(scores, int(10**6 * k)))


def test_samples_after_the_cut_are_the_same_from_memory_and_from_a_file(monkeypatch):
    scores = np.repeat(np.array([2, 1, 1, 0], np.float32), 50)
    names = [f"s{at}" for at in range(0, 200, 10)]
    found = []
    for in_memory in (1, 2**20):
        monkeypatch.setattr(stored_scores, "IN_MEMORY", in_memory)
        found.append(TokenCut.through(in_samples(scores, 10), score, lambda n: int(n * 0.425)))
    one, two = found
    assert one.after.tolist() == two.after.tolist() == sorted(hash_of(name) for name in names[9:15])
    assert (one.on, one.within, one.kept) == (two.on, two.within, two.kept) == ("s80", 5, 85)


def test_scores_of_all_samples_are_not_in_memory_together(monkeypatch):
    monkeypatch.setattr(stored_scores, "IN_MEMORY", 2**20)
    peaks = []
    for samples in (100, 400):
        scores = np.random.default_rng(4).normal(size=2**14).astype(np.float32)
        rows = (next(in_samples(scores, 2**14)) for _ in range(samples))
        tracemalloc.start()
        cut = TokenCut.through(rows, score, lambda n: n // 2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert cut.n == samples * 2**14
    assert peaks[1] < peaks[0] + 2**20  # 20 MB of scores more
