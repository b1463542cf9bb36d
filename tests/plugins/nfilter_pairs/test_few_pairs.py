"""Check and decision together: pairs stay in order where the data do not say how many are flipped."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from nfilter import Sample, State, View
from nfilter_pairs.decide import Decide, DecideConfig
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig

VIEWS = ["reward", "neighbours", "judge"]


def decided(samples: Sequence[Sample], context: Any, vote: Any = "probability") -> list[Sample]:
    check = Check(CheckConfig(views=VIEWS, vote=vote))
    ctx = context()
    samples = check.process(samples, check.fit(iter(samples), ctx), ctx)
    return Decide(DecideConfig()).process(samples, State(), ctx)


def viewed(sample: Sample, right: Sequence[bool | None]) -> Sample:
    """The pair, whose chosen response is the right one (A), with views that say so, deny it, or say nothing."""
    for name, each in zip(VIEWS, right, strict=True):
        answer = None if each is None else "A" if each else "B"
        sample = sample.note(name, View(answer).to_json())
    return sample


@pytest.mark.parametrize("vote", ["probability", "all", "any"])
def test_five_right_pairs_and_a_model_that_knows_nothing(
    pair: Any, context: Any, vote: str
) -> None:
    pairs = [pair(f"p{i}", f"q{i}", f"a{i}", f"b{i}") for i in range(5)]
    samples = [viewed(each, (False, None, False)) for each in pairs]
    for done in decided(samples, context, vote):
        assert done.response.startswith("a")
        assert done.why is not None
        assert done.why.startswith("kept")


@pytest.mark.parametrize("vote", ["probability", "all", "any"])
def test_many_right_pairs_and_views_that_make_the_same_guesses(
    pair: Any, context: Any, vote: str
) -> None:
    pairs = [pair(f"p{i}", f"q{i}", f"a{i}", f"b{i}") for i in range(200)]
    samples = [viewed(each, (i % 2 == 0, None, i % 2 == 0)) for i, each in enumerate(pairs)]
    assert {each.response[0] for each in decided(samples, context, vote)} == {"a"}


def test_one_view_alone_does_not_tell_its_mistakes_from_flips(pair: Any, context: Any) -> None:
    pairs = [pair(f"p{i}", f"q{i}", f"a{i}", f"b{i}") for i in range(200)]
    samples = [viewed(each, (i % 4 != 0, None, None)) for i, each in enumerate(pairs)]
    assert {each.response[0] for each in decided(samples, context)} == {"a"}


def test_flipped_pairs_are_swapped_where_independent_views_identify_the_rate(
    pair: Any, context: Any
) -> None:
    """20% flips, three views that are right in 90%: nearly all swaps are of flipped pairs."""
    rng = random.Random(3)
    samples, flips = [], []
    for i in range(600):
        flipped = rng.random() < 0.2
        texts = ("b", "a") if flipped else ("a", "b")
        right = [rng.random() < 0.9 for _ in VIEWS]
        samples.append(viewed(pair(f"p{i}", f"q{i}", *(t + str(i) for t in texts)), right))
        flips.append(flipped)
    done = decided(samples, context)
    swapped = [(after.why or "").startswith("swapped") for after in done]
    hits = sum(a and b for a, b in zip(swapped, flips, strict=True))
    assert hits / sum(swapped) > 0.9
    assert hits / sum(flips) > 0.9
