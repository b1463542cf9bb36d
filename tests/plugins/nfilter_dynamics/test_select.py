"""Area under the margin: values by hand over two rounds, the bound, the chain of trainings, ties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from nfilter import ModelRef, TokenSample
from nfilter.testing import FakeContext, check_token_stage, token_sample
from nfilter_dynamics import Select, SelectConfig

# Probability of both response tokens (one character and the end of its turn) after each round.
P = {
    "early": [(0.9, 0.9), (0.99, 0.9)],
    "late": [(0.2, 0.5), (0.9, 0.9)],
    "never": [(0.1, 0.5), (0.1, 0.6)],
    "known": [(1.0, 1.0), (1.0, 1.0)],
}


class Ctx(FakeContext):
    """A context whose model has the losses of ``P`` after each training."""

    def __init__(self) -> None:
        super().__init__(models={"student": self})
        self.starts: list[str | None] = []
        self.trained: list[list[str]] = []

    def train(self, samples: Iterable[TokenSample], start: ModelRef | None = None) -> ModelRef:
        self.starts.append(start.digest if start else None)
        self.trained.append([sample.id for sample in samples])
        return ModelRef("x", "adapter", "base", str(len(self.starts) - 1))

    def score(self, samples: Any, adapter: Any = None) -> Any:
        out = []
        for sample in samples:
            losses = np.full(len(sample.ids), np.nan, np.float32)
            losses[sample.response] = -np.log(P[sample.id.split("-")[0]][int(adapter.digest)])
            out.append(losses)
        return out


def select(names: Any = tuple(P), **config: Any) -> tuple[list[TokenSample], Ctx, Any]:
    ctx = Ctx()
    samples = [name if isinstance(name, TokenSample) else token_sample(name, "x") for name in names]
    settings = SelectConfig(**{"rounds": 2, **config})
    done, state = check_token_stage(Select, settings, samples, ctx, bit=3)
    return done, ctx, state.values["report"]


def kept(samples: list[TokenSample]) -> list[str]:
    return [sample.id for sample in samples if sample.weights.any()]


def test_the_area_is_the_mean_log_odds_over_rounds_and_tokens() -> None:
    done, _, report = select(keep=0.5)
    for sample in done[:3]:
        p = np.array(P[sample.id])
        area = sample.scores["margin"][sample.response]
        assert area == pytest.approx([np.log(p / (1 - p)).mean()] * 2, rel=1e-5)
        assert np.isnan(sample.scores["margin"][~sample.response]).all()
    assert kept(done) == ["early", "known"]
    assert report == {"samples": 4, "kept": 2}
    assert all((sample.reasons[sample.response] == 8).all() for sample in done[1:3])
    assert np.isfinite(done[3].scores["margin"][-1])


def test_the_log_odds_are_a_lower_bound_of_the_margin() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (200, 7))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    margins = logits[:, 0] - logits[:, 1:].max(-1)
    bound = np.log(p[:, 0] / (1 - p[:, 0]))
    assert (bound <= margins + 1e-9).all()
    two = logits[:, :2]
    q = np.exp(two[:, 0]) / np.exp(two).sum(-1)
    np.testing.assert_allclose(np.log(q / (1 - q)), two[:, 0] - two[:, 1])


def test_each_round_starts_from_the_one_before() -> None:
    _, ctx, _ = select()
    assert ctx.starts == [None, "0"]
    assert ctx.trained == [list(P)] * 2


@pytest.mark.parametrize(("keep", "count"), [(0.01, 1), (0.5, 2), (0.99, 3), (1.0, 4)])
def test_the_count_is_exact_and_ties_are_ordered_by_id(keep: float, count: int) -> None:
    names = [f"late-{number}" for number in (2, 0, 3, 1)]
    done, _, _ = select(names, keep=keep)
    assert sorted(kept(done)) == [f"late-{number}" for number in range(count)]


def test_a_masked_sample_is_not_trained_on_and_has_no_area() -> None:
    one = token_sample("early", "x")
    done, ctx, report = select([one.mask(one.response, 1), "late"], keep=1)
    assert ctx.trained == [["late"]] * 2
    assert report == {"samples": 1, "kept": 1}
    assert np.isnan(done[0].scores["margin"]).all()
    assert done[0].reasons.tolist() == one.mask(one.response, 1).reasons.tolist()
