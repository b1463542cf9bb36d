"""Soft weights: the formula by hand, and the samples that keep their weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from nfilter import Message, Sample, Verdict
from nfilter.testing import FakeContext, check_sample_stage
from nfilter_weights import Soft, SoftConfig

PAIR = (Message("user", "2 + 2?"), Message("assistant", "4"))


def sample(name: str, score: float | None, *, flagged: bool = False, **more: Any) -> Sample:
    one = replace(Sample(name, PAIR), **more)
    if score is None:
        return one
    return one.note("check", Verdict(flagged=flagged, noise_score=score).to_json())


def weighed(samples: list[Sample], **config: Any) -> list[Sample]:
    return list(check_sample_stage(Soft, SoftConfig(**config), samples, FakeContext()))


@pytest.mark.parametrize(
    ("config", "factors"),
    [
        ({}, [1.0, 0.75, 0.1, 0.0]),
        ({"power": 2}, [1.0, 0.5625, 0.01, 0.0]),
        ({"least": 0.2}, [1.0, 0.75, 0.2, 0.2]),
        ({"only": "flagged"}, [1.0, 1.0, 0.1, 0.0]),
    ],
)
def test_the_weight_is_the_probability_of_a_right_label(
    config: dict[str, Any], factors: list[float]
) -> None:
    scores = [0.0, 0.25, 0.9, 1.0]
    samples = [
        sample(f"s{score}", score, flagged=score > 0.5, weight=weight)
        for score in scores
        for weight in (1.0, 0.5)
    ]
    done = weighed(samples, **config)
    wanted = [factor * weight for factor in factors for weight in (1.0, 0.5)]
    assert [one.weight for one in done] == pytest.approx(wanted)
    assert all(one.dropped is None for one in done)


def test_the_reason_has_score_and_factor() -> None:
    (done,) = weighed([sample("a", 0.25)], power=2)
    assert done.why == "noise score 0.250: weight times 0.562"


def test_pinned_samples_and_samples_without_a_verdict_keep_their_weight() -> None:
    pinned, bare, other = weighed(
        [sample("a", 0.9, pinned=True), sample("b", None, weight=0.3), sample("c", 0.5)]
    )
    assert (pinned.weight, bare.weight, other.weight) == (1.0, 0.3, 0.5)
    assert bare.why == "weight kept: it has no verdict 'check'"
    assert Soft.contract(SoftConfig(check="mine")).reads == {"mine"}


@pytest.mark.parametrize("settings", [{"power": 0}, {"least": 1.1}, {"only": "clean"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SoftConfig.model_validate(settings)
