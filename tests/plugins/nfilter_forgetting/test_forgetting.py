"""Forgetting: the split by hand, the schedule, and the signed weights through the trainer's normaliser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nfilter import RecipeError, TokenSample
from nfilter.registry.loading import load
from nfilter.testing import FakeContext, check_token_loss, check_token_stage, token_sample
from nfilter_forgetting.loss import Forgetting, ForgettingConfig
from nfilter_forgetting.split import Split, SplitConfig
from nfilter_hf.lora.data import coefficients


def sample(name: str, values: Any) -> TokenSample:
    """A response of len(values) - 1 characters and its end."""
    one = token_sample(name, "x" * (len(values) - 1))
    scores = np.full(len(one.ids), np.nan, np.float32)
    scores[one.response] = values
    return one.score("excess", scores)


def split(samples: list[TokenSample], **config: Any) -> tuple[list[Any], Any]:
    done, state = check_token_stage(Split, SplitConfig(**config), samples, FakeContext())
    assert all(np.array_equal(a.weights, b.weights) for a, b in zip(samples, done, strict=True))
    return [one.scores["forgetting"][one.response].tolist() for one in done], state


def test_the_highest_of_all_tokens_are_positive() -> None:
    sides, state = split([sample("a", [0.1, 0.9, -1.0]), sample("b", [0.5, 0.4])], keep=0.4)
    assert sides == [[-1, 1, -1], [1, -1]]
    assert state.values["report"] == {"positive": 2, "negative": 3}


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        (0.2, [[1, -1], [1, -1, -1], [-1, -1], [-1, -1, -1]]),
        (0.3, [[1, -1], [1, 1, -1], [-1, -1], [-1, -1, -1]]),
        (0.4, [[1, -1], [1, 1, 1], [-1, -1], [-1, -1, -1]]),
        (0.5, [[1, -1], [1, 1, 1], [1, -1], [-1, -1, -1]]),
    ],
)
def test_ties_at_the_cut_go_to_the_first_tokens(keep: float, wanted: Any) -> None:
    rows = [[2.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0], [1.0, 1.0, 0.0]]
    samples = [sample(f"s{i}", row) for i, row in enumerate(rows)]
    assert split(samples, keep=keep)[0] == wanted


def test_a_token_without_a_score_is_on_no_side() -> None:
    sides, state = split([sample("a", [np.nan, 2.0, 1.0])], keep=0.5)
    assert np.isnan(sides[0][0])
    assert sides[0][1:] == [1, -1]
    assert state.values["report"] == {"positive": 1, "negative": 1}


def test_masked_tokens_are_not_ranked() -> None:
    one = sample("a", [9.0, 9.0])
    masked = one.mask(one.response, 1)
    sides, _ = split([masked, sample("b", [0.0, 1.0])], keep=0.5)
    assert np.isnan(sides[0]).all()
    assert sides[1] == [-1, 1]
    none, state = split([masked])
    assert np.isnan(none[0]).all()
    assert state.values["report"] == {"positive": 0, "negative": 0}


def weigh(sides: Any, step: int = 0, **config: Any) -> Any:
    n = len(sides)
    got = check_token_loss(
        Forgetting,
        ForgettingConfig(**config),
        torch.zeros(n, 4),
        torch.zeros(n, dtype=torch.int64),
        {"forgetting": torch.tensor(sides, dtype=torch.float32)},
        step=step,
    )
    return np.asarray(got, dtype=np.float64)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (5, 0.2), (10, 0.3), (1000, 0.3)])
def test_lambda_grows_with_the_step(step: int, factor: float) -> None:
    got = weigh([1, 1, 1, -1, np.nan], step, first=0.1, last=0.3, steps=10)
    assert got == pytest.approx([5 / 3] * 3 + [-5 * factor, 0])


@pytest.mark.parametrize("split_at", [1, 3, 5])
def test_the_loss_of_a_step_is_the_difference_of_the_means(split_at: int) -> None:
    """Through the trainer's normaliser, in any division into forward passes."""
    losses = np.array([0.5, 1.0, 2.0, 4.0, 3.0, 7.0])
    sides = [1, -1, 1, -1, 1, -1]
    weights = weigh(sides, 10, last=0.25, steps=10)
    given = np.ones(6)
    groups = [[given[:split_at]], [given[split_at:]]]
    factors = [[weights[:split_at]], [weights[split_at:]]]
    found = coefficients(groups, "tokens", factors, Forgetting.mean_over)
    loss = np.concatenate([part for group in found for part in group]) @ losses
    assert loss == pytest.approx((0.5 + 2 + 3) / 3 - 0.25 * (1 + 4 + 7) / 3, rel=1e-6)


def test_a_step_with_one_side_alone() -> None:
    assert weigh([1, 1], 100).tolist() == [1, 1]
    assert weigh([-1, -1], 100, last=0.5) == pytest.approx([-0.5, -0.5])


@pytest.mark.types("or set train.loss.by to the name of a score with sides")
def test_a_missing_score_names_the_stage_that_writes_it() -> None:
    stats = {"none": torch.zeros(2)}
    with pytest.raises(RecipeError, match="no score 'forgetting' for 2 of 2 tokens") as caught:
        Forgetting(ForgettingConfig()).weigh(stats, {"mine": torch.ones(2)}, 0)
    assert "put {use: forgetting.split} under tokens:" in str(caught.value)
    assert Split.contract(SplitConfig()).writes == Forgetting.contract(ForgettingConfig()).reads
    got = Forgetting(ForgettingConfig(by="mine")).weigh(stats, {"mine": torch.ones(2)}, 0)
    assert got.tolist() == [1, 1]


def test_a_missing_ranking_is_named() -> None:
    with pytest.raises(RecipeError, match="no score 'rank' \\(available: excess\\)"):
        split([sample("a", [1.0, 2.0])], by="rank")
    assert split([sample("a", [1.0, 2.0])], by="excess")


def test_both_are_registered(point: Any) -> None:
    import nfilter_forgetting

    plugins = load([point("nfilter_forgetting", nfilter_forgetting)], ())
    assert [item.name for item in plugins.of_kind("loss")] == ["forgetting"]
    assert [item.name for item in plugins.of_kind("stage")] == ["forgetting.split"]
