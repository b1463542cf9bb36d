"""Decisions: swap, drop and weigh by a verdict, with the views in the reason."""

from __future__ import annotations

from typing import Any

import pytest

from nfilter import Sample, Verdict
from nfilter.testing import check_sample_stage
from nfilter_pairs.decide import Decide, DecideConfig

AGREE = {"reward": False, "judge": False, "neighbours": None}


@pytest.fixture
def decided(pair: Any, context: Any) -> Any:
    def run(score: float, flagged: bool, agree: Any = AGREE, **config: Any) -> Sample:
        verdict = Verdict(flagged, score, agree, interval=config.pop("interval", None)).to_json()
        pinned = config.pop("pinned", False)
        sample = pair("p", "q", "chosen text", "rejected text", notes={"check": verdict}, weight=2.0, pinned=pinned)  # fmt: skip
        (done,) = check_sample_stage(Decide, DecideConfig(**config), [sample], context())
        return done

    return run


def test_a_flagged_pair_is_swapped_with_the_views_that_contradict_it(decided: Any) -> None:
    done = decided(0.93, True)
    assert done.response == "rejected text"
    assert done.rejected.content == "chosen text"
    assert done.why == (
        "swapped: reward and judge prefer the rejected response; probability of a flip 0.93"
    )


def test_a_pair_that_is_not_flagged_is_kept(decided: Any) -> None:
    done = decided(0.1, False, {"reward": True, "judge": None})
    assert (done.response, done.dropped, done.weight) == ("chosen text", None, 2.0)
    assert done.why == "kept: reward prefers the chosen response; probability of a flip 0.10"


def test_a_flagged_pair_is_dropped(decided: Any) -> None:
    done = decided(0.93, True, how="drop")
    assert done.dropped.startswith("flipped: reward and judge prefer the rejected response")
    assert done.response == "chosen text"


@pytest.mark.parametrize(
    ("score", "response", "weight"),
    [(0.9, "rejected text", 2 * 0.8), (0.2, "chosen text", 2 * 0.6), (0.5, "chosen text", 0.0)],
)
def test_weigh_takes_the_likelier_order_and_its_certainty(
    decided: Any, score: float, response: str, weight: float
) -> None:
    done = decided(score, score > 0.5, how="weigh")
    assert done.response == response
    assert done.weight == pytest.approx(weight)


def test_uncertain_pairs_are_dropped(decided: Any) -> None:
    assert "certainty 0.20, least 0.5" in decided(0.6, True, least=0.5).dropped
    assert decided(0.9, True, least=0.5).dropped is None


def test_a_pinned_pair_and_one_without_a_verdict_are_kept(
    decided: Any, pair: Any, context: Any
) -> None:
    assert decided(0.99, True, pinned=True).response == "chosen text"
    bare = pair("p", "q", "a", "b")
    (done,) = check_sample_stage(Decide, DecideConfig(), [bare], context())
    assert done.why == "pair kept: it has no verdict 'check'"


@pytest.mark.parametrize("how", ["swap", "weigh"])
def test_a_pair_is_swapped_only_if_the_whole_interval_says_so(decided: Any, how: str) -> None:
    done = decided(0.93, True, how=how, interval=(0.4, 0.99))
    assert (done.response, done.weight) == ("chosen text", 2.0)
    assert done.why.startswith("kept, though reward and judge prefer the rejected response")
    assert done.why.endswith(
        "the data determine this probability only to be between 0.40 and 0.99, and pairs are swapped from 0.5"
    )
    assert decided(0.93, True, how=how, interval=(0.5, 0.99)).response == "rejected text"


def test_swap_from_is_a_stated_probability(decided: Any) -> None:
    assert decided(0.93, True, swap_from=0.9).response == "rejected text"
    assert decided(0.93, True, swap_from=0.95).response == "chosen text"
    assert decided(0.93, True, swap_from=0, interval=(0.0, 1.0)).response == "rejected text"


def test_an_undetermined_pair_is_dropped_where_that_is_asked_for(decided: Any) -> None:
    assert decided(0.93, True, how="drop", interval=(0.0, 1.0)).dropped is not None
