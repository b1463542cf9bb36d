"""The reward margin: sums and means by hand, a reference, truncation, trusted pairs, ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nfilter import Message, RecipeError, Sample, TokenSample, View
from nfilter.testing import FakeContext, FakeTokenizer, check_sample_stage
from nfilter_pairs.reward import Reward, RewardConfig


class Model(FakeTokenizer):
    """A tokenizer and a scorer: every token of a response has the loss of its first character, divided by ``scale``."""

    def __init__(self, losses: dict[str, float]) -> None:
        self.losses = losses

    def score(self, samples: Any, adapter: Any = None) -> Any:
        return [self._of(sample) for sample in samples]

    def _of(self, sample: TokenSample) -> Any:
        first = chr(int(sample.ids[np.flatnonzero(sample.response)[0]]))
        return np.where(sample.predicted, np.float32(self.losses[first]), np.float32("nan"))


def views(samples: list[Sample], context: Any, config: Any = None, **models: Any) -> list[View]:
    ctx: FakeContext = context(**models)
    done = check_sample_stage(Reward, RewardConfig(**(config or {})), samples, ctx)
    found = [View.of(sample, "reward") for sample in done]
    return [view for view in found if view is not None]


# Responses of 3 and 4 tokens, with the end of the turn: losses per token 2 and 1.
LOSSES = {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize(
    ("config", "margin"),
    [({}, -3 * 2.0 + 4 * 1.0), ({"per": "token"}, -2.0 + 1.0)],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_margin_is_that_of_a_over_b(
    pair: Any, context: Any, config: Any, margin: float, swapped: bool
) -> None:
    sample = pair("p", "q", "aa", "bbb")
    sample = pair("p", "q", "bbb", "aa") if swapped else sample
    (view,) = views([sample], context, config, student=Model(LOSSES))
    assert view.more["margin"] == pytest.approx(margin)
    assert view.answer == "B"


def test_with_a_reference_the_margin_is_that_of_dpo(pair: Any, context: Any) -> None:
    reference = Model({"a": 3.0, "b": 1.0})
    (view,) = views(
        [pair("p", "q", "aa", "bbb")], context, {"reference": "base"}, student=Model(LOSSES), base=reference
    )  # fmt: skip
    of_a, of_b = -3 * 2.0 - (-3 * 3.0), -4 * 1.0 - (-4 * 1.0)
    assert view.more["margin"] == pytest.approx(of_a - of_b)
    assert view.answer == "A"


def test_a_truncated_response_has_no_answer(pair: Any, context: Any) -> None:
    long = pair("p", "q", "aa", "b" * 50)
    (view,) = views([long], context, {"max_length": 20}, student=Model(LOSSES))
    assert view.answer is None
    assert "max_length: 20" in str(view.failure)


def many(pair: Any, flips: int, n: int = 100, **meta: Any) -> list[Sample]:
    """Pairs whose right response begins with a letter that the model finds likelier; the first ``flips`` are flipped."""
    rng = np.random.default_rng(1)
    out = []
    for at in range(n):
        good, bad = "b" * int(rng.integers(1, 4)), "a" * int(rng.integers(4, 8))
        sample = pair(str(at), f"q{at}", good, bad, meta={**meta, "row": at})
        out.append(sample.swap("x") if at < flips else sample)
    return out


def test_flips_have_a_high_probability_and_a_low_rank(pair: Any, context: Any) -> None:
    found = views(many(pair, 20), context, student=Model(LOSSES))
    flipped = [float(view.more["flipped"]) for view in found]  # type: ignore[arg-type]
    assert min(flipped[:20]) > 0.9
    assert max(flipped[20:]) < 0.1
    ranks = [float(view.more["rank"]) for view in found]  # type: ignore[arg-type]
    assert max(ranks[:20]) < 0.2 <= min(ranks[20:])
    assert all(view.more["calibrated"] is True for view in found)


def test_shares_do_not_depend_on_the_label(pair: Any, context: Any) -> None:
    found = views(many(pair, 0), context, student=Model(LOSSES))
    sample = many(pair, 0)[0]
    again = views([sample.swap("x"), *many(pair, 0)[1:]], context, student=Model(LOSSES))
    assert found[0].answer == again[0].answer
    assert found[0].more["support"] > 0.9 > 0.1 > again[0].more["support"]  # type: ignore[operator]


def test_margins_that_do_not_tell_the_rate_only_rank(pair: Any, context: Any) -> None:
    """Half of the labels agree: the margins are centred at 0, and one broad component explains them."""
    rng = np.random.default_rng(2)
    rows = []
    for at in range(200):
        texts = ["a" * int(rng.integers(1, 30)), "b" * int(rng.integers(1, 60))]
        rng.shuffle(texts)
        rows.append(pair(str(at), f"q{at}", *texts))
    found = views(rows, context, student=Model(LOSSES))
    assert all("flipped" not in view.more and "rank" in view.more for view in found)


@pytest.mark.types("this stage compares two; give the source rows")
def test_rows_with_one_response_are_refused(context: Any, pair: Any) -> None:
    alone = Sample("p", (Message("user", "q"), Message("assistant", "a")))
    with pytest.raises(RecipeError, match=r"'p' has one response.*shape: preference"):
        views([alone], context, student=Model(LOSSES))
    assert views([pair("p", "q", "a", "b")], context, student=Model(LOSSES))


@pytest.mark.types("type answer: preference")
def test_another_kind_of_answer_is_refused(pair: Any) -> None:
    ctx = FakeContext(models={"student": Model(LOSSES)}, answers="exact")
    with pytest.raises(RecipeError, match="type answer: preference"):
        Reward(RewardConfig()).fit([pair("p", "q", "a", "b")], ctx)
