"""xtf.mask: the union against an independent computation, and the control with equal counts per sample."""

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter import RecipeError
from nfilter.testing import FakeContext
from nfilter_xtf.mask import Mask, MaskConfig
from nfilter_xtf.novelty import Novelty, NoveltyConfig
from nfilter_xtf.rules import LowTail, relevance_cuts


def drawn(seed, tokens, count=8, longest=60):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        n = int(rng.integers(1, longest))
        reasoning = np.exp(rng.standard_t(2, n))
        reasoning[-1] = np.nan
        relevance = rng.integers(0, 400, n) / 400
        relevance[rng.random(n) < 0.1] = np.nan
        out.append(
            tokens(
                f"s{i}", rng.integers(0, 99, n), rng.random(n) < 0.8, rng.choice([0, 0.5, 1], n, p=[0.1, 0.4, 0.5]),
                reasoning=reasoning, novelty=rng.random(n) ** 3, relevance=relevance,
            )
        )  # fmt: skip
    return out


def by_hand(samples, caps):
    """Compute the union by the equations, one token at a time."""
    scores = np.concatenate([s.scores["xtf.relevance"][s.response] for s in samples])
    cuts = relevance_cuts(scores, np.ones(len(scores)))
    out = []
    for s in samples:
        masked = set()
        pool = [t for t in range(len(s.ids)) if s.response[t] and s.weights[t]]
        cut = LowTail("default").cut(s.scores["xtf.reasoning"][s.response])
        tests = {
            "reasoning": lambda x, cut=cut: x < cut,
            "novelty": lambda x: float(x) < 0.05,
            "relevance": lambda x: cuts is not None and x < cuts[0],
        }
        for name, test in tests.items():
            score = s.scores[f"xtf.{name}"]
            hit = sorted((t for t in pool if test(score[t])), key=lambda t: (score[t], t))
            most = len(hit) if caps is None else int(round(caps[name] * s.response.sum(), 6))
            masked |= set(hit[:most])
        if pool and masked == set(pool):
            score = s.scores["xtf.reasoning"]
            masked.remove(
                max(pool, key=lambda t: (-np.inf if np.isnan(score[t]) else score[t], -t))
            )
        out.append(sorted(masked))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_the_mask_is_the_union(seed, tokens, run, lost):
    samples = drawn(seed, tokens)
    out, _ = run(Mask, MaskConfig(), samples)
    assert lost(out) == by_hand(samples, {"reasoning": 0.05, "novelty": 0.1, "relevance": 0.05})
    out, _ = run(Mask, MaskConfig(cap="none"), samples)
    assert lost(out) == by_hand(samples, None)
    assert any(lost(out))


@pytest.mark.parametrize("preset", ["default", "paper", "official"])
@pytest.mark.parametrize("seed", range(10))
def test_the_control_masks_as_many_tokens_per_sample(seed, preset, tokens, run, lost):
    samples = drawn(seed, tokens, longest=25)
    config = {"preset": preset, "cap": "none"}
    union, first = run(Mask, MaskConfig(**config), samples)
    control, second = run(Mask, MaskConfig(**config, random=True), samples, size=5)
    assert [len(x) for x in lost(union)] == [len(x) for x in lost(control)]
    assert first["masked"] == second["masked"] == sum(map(len, lost(control)))
    for before, where in zip(samples, lost(control), strict=True):
        assert before.weights[where].all()


def test_the_control_depends_on_the_seed_and_the_sample_alone(tokens, run, lost):
    samples = drawn(1, tokens, 20)
    config = MaskConfig(random=True, cap=0.3)
    one, _ = run(Mask, config, samples, FakeContext(seed=1), 3)
    again, _ = run(Mask, config, samples, FakeContext(seed=1), 20)
    two, _ = run(Mask, config, samples, FakeContext(seed=2))
    assert lost(one) == lost(again) != lost(two)
    union, _ = run(Mask, MaskConfig(cap=0.3), samples)
    assert lost(one) != lost(union)


def test_one_attribute_equals_its_own_stage(tokens, run, lost):
    rng = np.random.default_rng(5)
    samples = [tokens(f"s{i}", range(30), loss=rng.exponential(0.2, 30)) for i in range(5)]
    own, _ = run(Novelty, NoveltyConfig(loss="loss.base"), samples)
    scored, _ = run(Novelty, NoveltyConfig(loss="loss.base", mask=False), samples)
    assert not any(lost(scored))
    union, _ = run(Mask, MaskConfig(attributes=("novelty",)), scored)
    assert lost(union) == lost(own)
    assert all(lost(own))


def test_the_report_counts_by_attribute_and_by_pair(tokens, run):
    sample = tokens(
        "a", [5, 5, 6, 7, 8, 9],
        reasoning=[1e-6, 1, 1, 1, 1, 1], novelty=[0, 0, 0, 1, 1, 1], relevance=[0.1, 0.3, 0.5, 0.7, 0.9, 0.9],
    )  # fmt: skip
    _, report = run(Mask, MaskConfig(cap="none"), [sample])
    assert report["overlap"] == {
        "reasoning": {"reasoning": 1, "novelty": 1, "relevance": 1},
        "novelty": {"reasoning": 1, "novelty": 3, "relevance": 1},
        "relevance": {"reasoning": 1, "novelty": 1, "relevance": 1},
    }
    assert (report["tokens"], report["masked"], report["mask_rate"]) == (6, 3, 0.5)
    assert report["mask_rate_by_attribute"]["novelty"] == 0.5
    assert report["most_masked_ids"] == [[5, 2], [6, 1]]
    assert report["relevance_thresholds"] == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=1e-6)


def test_a_cap_below_one_token_is_warned_of(tokens, run):
    ctx = FakeContext()
    samples = [tokens(f"s{i}", range(5), novelty=[0.01] * 5) for i in range(3)]
    _, report = run(Mask, MaskConfig(attributes=("novelty",)), samples, ctx)
    assert (report["under_threshold"], report["masked"]) == (15, 0)
    assert any(kind == "warning" and "set cap: none" in text for kind, text in ctx.log.lines)


def test_the_union_keeps_one_token_when_attributes_cover_all_together(tokens, run, lost):
    sample = tokens("a", [1, 2, 3], novelty=[0.01, 0.02, 0.5], relevance=[0.5, np.nan, 0.1])
    rest = tokens("b", range(4), novelty=[1] * 4, relevance=[0.3, 0.5, 0.7, 0.9])
    config = {"attributes": ("novelty", "relevance"), "cap": "none"}
    out, _ = run(Mask, MaskConfig(**config), [sample, rest])
    assert lost(out) == [[0, 1], []]  # token 2 has the highest novelty
    out, report = run(Mask, MaskConfig(**config, preset="official"), [sample, rest])
    assert lost(out) == [[0, 1, 2], []]
    assert report["samples_emptied"] == 1


def test_the_kept_token_is_the_best_by_the_first_attribute(tokens, run, lost):
    """All tokens are known; the most relevant is kept, not the most novel."""
    sample = tokens("a", [1, 2, 3], novelty=[0.01, 0.02, 0.03], relevance=[0.9, 0.8, 0.7])
    out, _ = run(Mask, MaskConfig(attributes=("relevance", "novelty"), cap="none"), [sample])
    assert lost(out) == [[1, 2]]


def test_equal_samples_have_independent_draws(tokens, run, lost):
    novelty = [0.01] * 10 + [0.5] * 20
    samples = [tokens(f"s{i}", range(30), novelty=novelty) for i in range(4)]
    config = MaskConfig(attributes=("novelty",), cap="none", random=True)
    out, _ = run(Mask, config, samples)
    assert len({tuple(where) for where in lost(out)}) == 4
    alone, _ = run(Mask, config, samples[2:3])
    assert lost(alone) == lost(out)[2:3]


def test_a_sample_without_a_weight_is_unchanged(tokens, run, lost):
    sample = tokens("a", [1, 2], [1, 1], [0, 0], novelty=[0, 0])
    out, _ = run(Mask, MaskConfig(attributes=("novelty",), random=True), [sample])
    assert lost(out) == [[]]
    assert not out[0].weights.any()


def test_a_missing_score_is_named(tokens, run):
    with pytest.raises(
        RecipeError, match=r"no score 'xtf.relevance'.*\{use: xtf.relevance, mask: false\}"
    ):
        run(Mask, MaskConfig(), [tokens("a", [1], novelty=[1], reasoning=[1])])
    whole = tokens("a", [1], novelty=[1], reasoning=[1], relevance=[1])
    assert run(Mask, MaskConfig(), [whole])


def test_the_contract_reads_the_attributes_scores():
    assert Mask.contract(MaskConfig()).reads == {"xtf.reasoning", "xtf.novelty", "xtf.relevance"}
    assert Mask.contract(MaskConfig(attributes=("novelty",))).reads == {"xtf.novelty"}


@pytest.mark.parametrize("bad", [(), ("novelty", "novelty"), ("style",)])
def test_invalid_attributes_are_refused(bad):
    with pytest.raises(ValidationError, match="attributes"):
        MaskConfig(attributes=bad)
