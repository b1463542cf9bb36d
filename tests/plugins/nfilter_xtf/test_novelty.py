"""xtf.novelty: 1 - p against .05, caps by rank, the token that is kept, and existing losses in place of a model."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter import RecipeError, Scores
from nfilter.testing import FakeContext
from nfilter_xtf.novelty import Novelty, NoveltyConfig

FREE = NoveltyConfig(loss="loss.base", cap="none")


def losses(*p):
    return -np.log(np.asarray(p, dtype=np.float64))


def test_tokens_above_95_percent_are_masked(tokens, run, lost):
    sample = tokens("a", [1, 2, 3], loss=losses(0.951, 0.95, 0.949))
    (out,), report = run(Novelty, FREE, [sample])
    assert lost([out]) == [[0]]
    np.testing.assert_allclose(out.scores["xtf.novelty"], [0.049, 0.05, 0.051], atol=1e-8)
    assert report == {
        "preset": "default", "tokens": 3, "under_threshold": 1, "masked": 1, "mask_rate": 0.333333,
        "samples_emptied": 0, "threshold": 0.05,
    }  # fmt: skip


def test_prompt_weightless_and_unscored_tokens_are_unchanged(tokens, run, lost):
    p = [0.99, 0.99, 0.99, np.nan, 0.99, 0.1]
    sample = tokens("a", range(6), [0, 1, 1, 1, 1, 1], [1, 0, 0.5, 1, 1, 1], loss=losses(*p))
    (out,), report = run(Novelty, FREE, [sample])
    assert lost([out]) == [[2, 4]]
    assert np.isnan(out.scores["xtf.novelty"]).tolist() == [True, False, False, True, False, False]
    assert report["tokens"] == 4


@pytest.mark.parametrize(
    ("cap", "n", "most"), [("auto", 9, 0), ("auto", 10, 1), ("auto", 29, 2), (0.29, 100, 29), (1.0, 5, 4)]
)  # fmt: skip
def test_the_cap_takes_the_lowest_and_ties_by_position(cap, n, most, tokens, run, lost):
    rng = np.random.default_rng(n)
    p = rng.choice([0.96, 0.97, 0.98, 0.99], n)
    sample = tokens("a", range(n), loss=losses(*p))
    (out,), _ = run(Novelty, NoveltyConfig(loss="loss.base", cap=cap), [sample])
    order = sorted(range(n), key=lambda t: (-p[t], t))
    kept = {order[-1]} if most == n - 1 else set()
    assert lost([out]) == [sorted(set(order[: most + len(kept)]) - kept)]


def test_ties_are_masked_in_order_of_position(tokens, run, lost):
    rng = np.random.default_rng(0)
    p = rng.choice([0.97, 0.98], 2000)
    (out,), _ = run(
        Novelty,
        NoveltyConfig(loss="loss.base", cap=0.75),
        [tokens("a", range(2000), loss=losses(*p))],
    )
    order = sorted(range(2000), key=lambda t: (-p[t], t))
    assert lost([out]) == [sorted(order[:1500])]


@pytest.mark.types("raise cap, or set cap: none")
def test_a_cap_below_one_token_is_warned_of(tokens, run):
    ctx = FakeContext()
    samples = [tokens(f"s{i}", range(5), loss=losses(*[0.99] * 5)) for i in range(3)]
    run(Novelty, NoveltyConfig(loss="loss.base"), samples, ctx)
    assert any(kind == "warning" and "set cap: none" in text for kind, text in ctx.log.lines)
    for cap in ("none", 0.75):
        ctx = FakeContext()
        run(Novelty, NoveltyConfig(loss="loss.base", cap=cap), samples, ctx)
        assert not any(kind == "warning" for kind, _ in ctx.log.lines)


def test_the_most_novel_token_is_kept(tokens, run, lost):
    sample = tokens("a", range(5), [0, 1, 1, 1, 1], loss=losses(0.1, 0.99, 0.96, 0.97, 0.96))
    (out,), _ = run(Novelty, FREE, [sample])
    assert lost([out]) == [[1, 3, 4]]


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_with_the_papers_presets_all_tokens_may_be_masked(preset, tokens, run):
    sample = tokens("a", range(4), loss=losses(0.99, 0.96, 0.97, 0.96))
    config = NoveltyConfig(loss="loss.base", preset=preset, cap="none")
    (out,), report = run(Novelty, config, [sample])
    assert not out.weights.any()
    assert report["samples_emptied"] == 1


def test_the_paper_has_no_cap_and_the_published_code_has_one(tokens, run, lost):
    sample = tokens("a", range(20), loss=losses(*[0.99] * 10, *[0.5] * 10))
    for preset, count in (("paper", 10), ("official", 2), ("default", 2)):
        (out,), _ = run(Novelty, NoveltyConfig(loss="loss.base", preset=preset), [sample])
        assert len(lost([out])[0]) == count


def test_the_model_is_used_without_a_configured_loss(tokens, run, lost):
    sample = tokens("a", [3, 4, 5], [0, 1, 1])
    model = SimpleNamespace(
        score=lambda chunk: [np.array([np.nan, 0.01, 2], np.float32) for _ in chunk]
    )
    ctx = FakeContext(models={"base": model})
    (out,), _ = run(Novelty, NoveltyConfig(model="base", cap="none"), [sample], ctx)
    assert lost([out]) == [[1]]
    np.testing.assert_allclose(
        out.scores["xtf.novelty"][1:], [1 - np.exp(-0.01), 1 - np.exp(-2)], rtol=1e-6
    )


def test_the_contract_needs_a_model_or_a_score():
    needs = Novelty.contract(NoveltyConfig(model="base"))
    assert [(need.model, need.capability, need.field) for need in needs.needs] == [
        ("base", Scores, "model")
    ]
    assert needs.reads == frozenset()
    reads = Novelty.contract(FREE)
    assert (reads.reads, reads.needs, reads.writes) == ({"loss.base"}, (), {"xtf.novelty"})


def test_a_missing_score_is_named(tokens, run):
    with pytest.raises(RecipeError, match=r"no score 'loss.base' \(available: none\).*excess_loss"):
        run(Novelty, FREE, [tokens("a", [1])])


@pytest.mark.parametrize("cap", [0, -0.1, 1.5, True, "all"])
def test_invalid_caps_are_refused(cap):
    with pytest.raises(ValidationError, match="cap"):
        NoveltyConfig(cap=cap)
