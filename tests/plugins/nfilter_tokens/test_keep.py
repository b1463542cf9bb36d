"""Token selection against a stable sort over the whole pool, in chunks, with weights and prompt tokens mixed in."""

import numpy as np
import pytest

from nfilter import RecipeError, TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_tokens.excess import ExcessLossConfig
from nfilter_tokens.keep import KeepTop, KeepTopConfig, RandomTokens, RandomTokensConfig

BIT = 3


def tokens(name, scores, response, weights=None):
    n = len(scores)
    response = np.asarray(response, dtype=bool)
    weight = np.ones(n) if weights is None else np.asarray(weights)
    return TokenSample(
        id=name, ids=np.arange(n), response=response, turn=np.zeros(n, np.int16), spans=np.zeros((n, 2), np.int32),
        weights=np.where(response, weight, 0).astype(np.float32),
        scores={"excess": np.asarray(scores, np.float32)},
    )  # fmt: skip


def drawn(seed, samples=12, values=5):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(samples):
        n = int(rng.integers(1, 15))
        scores = rng.integers(0, values, n).astype(np.float32)
        scores[rng.random(n) < 0.1] = np.nan
        out.append(tokens(f"s{i}", scores, rng.random(n) < 0.7, rng.choice([0, 0.5, 1], n)))
    return out


def run(stage, config, samples, ctx=None, size=5):
    """Run a stage as the engine does: fit on all samples, then process and check each chunk."""
    ctx = ctx or FakeContext()
    return check_token_stage(stage, config, samples, ctx, bit=BIT, chunk=size)[0]


def pool(samples):
    return [(i, t) for i, s in enumerate(samples) for t in np.flatnonzero(s.weights)]


def kept(samples):
    return pool(samples)


@pytest.mark.parametrize("k", [0.0, 0.1, 0.29, 0.6, 0.999, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_global_is_the_stable_sort_over_all_tokens(seed, k):
    samples = drawn(seed)
    positions = pool(samples)
    scores = np.array([samples[i].scores["excess"][t] for i, t in positions], np.float32)
    first = np.argsort(-scores, kind="stable")[: int(len(positions) * k)]
    out = run(KeepTop, KeepTopConfig(k=k), samples)
    assert kept(out) == sorted(positions[i] for i in first)


@pytest.mark.parametrize("seed", range(4))
def test_sample_scope_ranks_each_sample_alone(seed):
    samples = drawn(seed)
    out = run(KeepTop, KeepTopConfig(k=0.5, scope="sample"), samples)
    for before, after in zip(samples, out, strict=True):
        where = np.flatnonzero(before.weights)
        scores = before.scores["excess"][where]
        first = np.argsort(-scores, kind="stable")[: int(len(where) * 0.5)]
        assert sorted(where[first]) == list(np.flatnonzero(after.weights))


def test_masked_tokens_have_the_reason_and_kept_tokens_their_weight():
    samples = [tokens("a", [3, 1, 2, 9], [0, 1, 1, 1], [1, 1, 0.25, 0])]
    (out,) = run(KeepTop, KeepTopConfig(k=0.5), samples)
    assert list(out.weights) == [0, 0, 0.25, 0]  # 9 had no weight: it is not in the pool
    assert list(out.reasons) == [0, 1 << BIT, 0, 0]


def test_a_sample_may_lose_everything():
    samples = [tokens("low", [1, 1], [1, 1]), tokens("high", [2, 2], [1, 1])]
    low, high = run(KeepTop, KeepTopConfig(k=0.5), samples)
    assert not low.weights.any()
    assert high.weights.all()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_make_no_difference(size):
    samples = drawn(5, samples=20, values=2)  # nearly all are ties
    whole = run(KeepTop, KeepTopConfig(k=0.4), samples, size=100)
    parts = run(KeepTop, KeepTopConfig(k=0.4), samples, size=size)
    assert kept(whole) == kept(parts)


@pytest.mark.types("put the stage that writes it before this one, such as «»")
def test_a_missing_score_is_named():
    with pytest.raises(RecipeError, match=r"no score 'other' \(available: excess\)"):
        run(KeepTop, KeepTopConfig(by="other"), drawn(0))
    assert (
        ExcessLossConfig(warmup=0.2).into == "excess"
    )  # the score of the stage that the message names
    run(KeepTop, KeepTopConfig(by="excess"), drawn(0))


def test_random_keeps_exactly_the_share_and_another_seed_keeps_others():
    samples = drawn(6, samples=30)
    n = len(pool(samples))
    config = RandomTokensConfig(k=0.6)
    one = run(RandomTokens, config, samples, FakeContext(seed=1), size=4)
    again = run(RandomTokens, config, samples, FakeContext(seed=1), size=30)
    two = run(RandomTokens, config, samples, FakeContext(seed=2))
    assert len(kept(one)) == int(n * 0.6)
    assert kept(one) == kept(again)
    assert kept(one) != kept(two)
    assert set(kept(one)) <= set(pool(samples))


def test_random_draws_do_not_depend_on_the_other_samples():
    """The random scores of a sample do not depend on the other samples; only the cut moves."""
    samples = drawn(7, samples=40)
    few = samples[:20]
    many = {
        (i, t)
        for i, t in kept(run(RandomTokens, RandomTokensConfig(k=0.5), samples))
        if i < len(few)
    }
    alone = set(kept(run(RandomTokens, RandomTokensConfig(k=0.5), few)))
    assert many <= alone or alone <= many
