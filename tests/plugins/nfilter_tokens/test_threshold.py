"""Mixtures drawn with known shares: the fit, and the tokens that are kept."""

import math

import numpy as np
import pytest

from nfilter import RecipeError, TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_tokens.keep import KeepTop, KeepTopConfig
from nfilter_tokens.mixture import Mixture, fit
from nfilter_tokens.threshold import AutoThreshold, AutoThresholdConfig


def two_groups(share, n=20_000, seed=0, apart=4.0):
    rng = np.random.default_rng(seed)
    upper = rng.random(n) < share
    return np.where(upper, apart + rng.normal(size=n), rng.normal(0, 0.5, n)).astype(
        np.float32
    ), upper


def sample(name, scores):
    n = len(scores)
    return TokenSample(
        id=name, ids=np.arange(n), response=np.ones(n, bool), turn=np.zeros(n, np.int16),
        spans=np.zeros((n, 2), np.int32), weights=np.ones(n, np.float32), scores={"excess": scores},
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("parts", [1, 7])
def test_the_fit_recovers_the_drawn_groups(share, parts):
    scores, _ = two_groups(share)
    mixture = fit(np.array_split(scores, parts))
    assert mixture.share == pytest.approx(share, abs=0.01)
    assert mixture.means == pytest.approx((0, 4), abs=0.03)
    assert mixture.deviations == pytest.approx((0.5, 1), abs=0.05)
    assert mixture.better > 1000


def test_one_group_is_not_split():
    rng = np.random.default_rng(3)
    assert fit([rng.normal(size=20_000).astype(np.float32)]).better <= 0


def test_the_posterior_is_bayes_rule_between_the_means():
    groups = Mixture(share=0.3, means=(0.0, 2.0), deviations=(1.0, 2.0), better=1.0)
    for x in (0.1, 1.0, 1.9):
        lower = 0.7 * math.exp(-(x**2) / 2)
        upper = 0.3 / 2 * math.exp(-((x - 2) ** 2) / 8)
        assert groups.upper([x])[0] == pytest.approx(upper / (upper + lower))
    # Without the clamp the wide component would dominate the low tail too.
    assert list(groups.upper([-50.0, 50.0])) == [0.0, 1.0]


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0, 2.0], [np.nan, np.inf, 1.0]])
def test_too_little_to_fit(scores):
    assert fit([np.array(scores, np.float32)]) is None


def test_the_upper_group_is_kept():
    scores, upper = two_groups(0.4)
    samples = [sample(f"s{i}", part) for i, part in enumerate(np.array_split(scores, 50))]
    samples.append(sample("unscored", np.full(3, np.nan, np.float32)))
    ctx = FakeContext()
    out, state = check_token_stage(AutoThreshold, AutoThresholdConfig(), samples, ctx, bit=2)
    kept = np.concatenate([each.weights != 0 for each in out])
    assert (kept[:-3] == upper).mean() > 0.99
    assert not kept[-3:].any()
    assert state.values["report"]["kept"] == int(kept.sum())


@pytest.mark.types("use tokens.keep_top")
def test_one_group_keeps_every_token_with_a_warning():
    scores = np.random.default_rng(4).normal(size=5000).astype(np.float32)
    ctx, stage = FakeContext(), AutoThreshold(AutoThresholdConfig())
    rows = [sample("x", scores)]
    (out,) = stage.process_tokens(rows, stage.fit_tokens(rows, ctx), ctx, 0)
    assert out.weights.all()
    assert [kind for kind, _ in ctx.log.lines] == ["warning"]
    assert "use tokens.keep_top" in ctx.log.lines[0][1]
    (out,), _ = check_token_stage(KeepTop, KeepTopConfig(k=0.6), rows, FakeContext(), bit=1)
    assert (out.weights != 0).sum() == 3000


def test_a_missing_score_is_named():
    with pytest.raises(RecipeError, match=r"no score 'other' \(available: excess\)"):
        AutoThreshold(AutoThresholdConfig(by="other")).fit_tokens(
            [sample("x", np.zeros(2, np.float32))], FakeContext()
        )
