"""xtf.reasoning: tokens with low scores within their sample, by independently computed quartiles."""

import numpy as np
import pytest
import torch

from nfilter.testing import FakeContext
from nfilter_xtf.attribute import AttributeMasking
from nfilter_xtf.reasoning import Reasoning, ReasoningConfig
from nfilter_xtf.rules import LowTail


def drawn(seed, tokens, count=7):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        n = int(rng.integers(2, 60))
        out.append(tokens(f"s{i}", rng.integers(0, 50, n), np.arange(n) >= n // 3))
    return out


def ctx_of(model):
    return FakeContext(models={"student": model})


@pytest.mark.parametrize(("preset", "times"), [("default", 1.0), ("paper", 1.0), ("official", 1.5)])
def test_the_cut_is_by_the_quartiles_of_the_sample(preset, times):
    scores = np.exp([3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 2.55, 0.1]).astype(np.float32)
    s = np.log(scores) if preset == "default" else scores
    ordered = np.sort(s.astype(float))
    q1, q3 = (
        (ordered[2] + 0.25 * (ordered[3] - ordered[2])),
        (ordered[6] + 0.75 * (ordered[7] - ordered[6])),
    )
    cut = q1 - times * (q3 - q1)
    wanted = s < cut
    assert LowTail(preset).cut(scores) == pytest.approx(
        np.exp(cut) if preset == "default" else cut, rel=1e-5
    )
    assert LowTail(preset).hits(scores).tolist() == wanted.tolist()
    assert wanted.any()


def test_the_cut_is_on_the_logarithm():
    """Skewed scores: the lowest is below the cut of the logarithms; the cut of the raw scores is negative."""
    scores = np.array([0.01, 1, 1.2, 1.5, 2, 3, 4, 5], np.float32)
    assert LowTail("default").hits(scores).tolist() == [True] + [False] * 7
    assert not LowTail("paper").hits(scores).any()


def test_rounding_is_noise_only_in_the_published_code():
    scores = (1 + np.array([0, 1, 0, 1, -4, 0, 0, 1]) * 2e-8).astype(np.float32)
    scores[4] = np.float32(1 - 6e-8)
    assert not LowTail("default").hits(scores).any()
    assert LowTail("official").hits(scores).any()


def test_a_zero_score_is_below_the_cut_and_nan_is_not():
    scores = np.array([0, 1, 1.1, 1.2, 0.9, np.nan], np.float32)
    assert LowTail("default").hits(scores).tolist() == [True] + [False] * 5
    assert not LowTail("default").hits(np.full(3, np.nan, np.float32)).any()
    assert not LowTail("default").hits(np.zeros(0, np.float32)).any()


@pytest.mark.parametrize(
    ("low", "official", "default"),
    [
        ([0.1], [0], [0]),  # at the cap: the quartiles' cut stands
        ([0.3, 0.1, 0.2], [1, 2], [1, 2]),  # the cut moves to the score at rank 2, which is 0.3
        ([0.1, 0.1, 0.1], [], [0, 1]),  # equal scores at that rank: strictly below it is none
    ],
)
def test_the_published_cap_is_a_cut_at_a_rank(low, official, default, tokens):
    scores = np.array([*low, *np.linspace(1, 1.1, 20 - len(low))], np.float32)
    sample = tokens("a", range(20))
    for preset, wanted in (("official", official), ("default", default)):
        masking = AttributeMasking("reasoning", preset, 0.1, mask=True)
        masked = masking.capped_mask(sample, scores, LowTail(preset))
        assert np.flatnonzero(masked).tolist() == wanted


def test_uniform_attention_masks_nothing(tokens, small, lender, run, lost):
    module = small()
    with torch.no_grad():
        for layer in module.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    out, report = run(
        Reasoning, ReasoningConfig(cap="none"), drawn(0, tokens), ctx_of(lender(module))
    )
    assert not any(lost(out))
    assert report["threshold_median"] == pytest.approx(1, abs=1e-5)


def test_it_masks_the_lowest_up_to_the_cap(tokens, small, lender, run, lost):
    samples = drawn(1, tokens, 30)
    free, _ = run(Reasoning, ReasoningConfig(cap="none"), samples, ctx_of(lender(small())))
    few, report = run(Reasoning, ReasoningConfig(), samples, ctx_of(lender(small())))
    assert any(lost(free))
    for sample, wide, narrow in zip(free, lost(free), lost(few), strict=True):
        scores = sample.scores["xtf.reasoning"]
        cut = LowTail("default").cut(scores[sample.response])
        assert wide == np.flatnonzero(scores < cut).tolist()
        most = int(sample.response.sum()) // 20
        assert narrow == sorted(sorted(wide, key=lambda t: (scores[t], t))[:most])
        assert not sample.response.any() or len(sample.ids) - 1 not in wide
    assert any(lost(few))
    assert report["masked"] == sum(map(len, lost(few)))
    assert report["under_threshold"] == sum(map(len, lost(free)))
    assert report["tokens"] == sum(int(s.response.sum()) for s in samples)
    assert report["mask_rate"] == pytest.approx(report["masked"] / report["tokens"], abs=1e-6)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_chunks_make_no_difference_and_the_model_is_lent_once(size, tokens, small, lender, run):
    samples = drawn(2, tokens)
    wanted, _ = run(Reasoning, ReasoningConfig(cap=0.2), samples, ctx_of(lender(small())), 3)
    model = lender(small())
    got, _ = run(Reasoning, ReasoningConfig(cap=0.2), samples, ctx_of(model), size)
    assert model.loans == 1
    for a, b in zip(wanted, got, strict=True):
        assert np.array_equal(a.weights, b.weights)
        assert np.array_equal(a.scores["xtf.reasoning"], b.scores["xtf.reasoning"], equal_nan=True)


def test_samples_that_were_not_fitted_are_scored_in_process(tokens, small, lender):
    first, second, third = drawn(3, tokens, 3)
    ctx = ctx_of(lender(small()))
    stage = Reasoning(ReasoningConfig())
    state = stage.fit_tokens([second], ctx)
    got = stage.process_tokens([first, second, third], state, ctx, 0)
    wanted = stage.process_tokens([first, second, third], stage.fit_tokens([], ctx), ctx, 0)
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(a.scores["xtf.reasoning"], b.scores["xtf.reasoning"], equal_nan=True)


def test_equal_ids_with_a_different_response_are_scored_separately(tokens, small, lender, run):
    ids = np.arange(12)
    samples = [tokens("a", ids, ids > 3), tokens("b", ids, ids > 6), tokens("c", ids, ids > 3)]
    out, _ = run(Reasoning, ReasoningConfig(), samples, ctx_of(lender(small())))
    for sample in out:
        scored = ~np.isnan(sample.scores["xtf.reasoning"])
        assert scored.tolist() == (sample.response & (ids < 11)).tolist()


def test_mask_false_only_scores(tokens, small, lender, run, lost):
    samples = drawn(4, tokens, 20)
    config = ReasoningConfig(mask=False, cap="none")
    out, report = run(Reasoning, config, samples, ctx_of(lender(small())))
    assert not any(lost(out))
    assert report["masked"] == 0
    assert report["under_threshold"] > 0
