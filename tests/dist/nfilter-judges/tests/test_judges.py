"""A plugin's own tests of capabilities, with fakes and with the real models."""

from pathlib import Path

import numpy as np
import pytest
from nfilter_judges.capabilities import Entails, Rewards
from nfilter_judges.models import NliConfig, NliModel, RewardConfig, RewardModel
from nfilter_judges.stages import Best, BestConfig, Entailed, EntailedConfig

from nfilter import Message, ModelError, Sample, Site
from nfilter.testing import FakeContext, FakeEncoder, check_backend, check_sample_stage

SAMPLES = [
    Sample(str(n), (Message("user", "red and blue"), Message("assistant", text)))
    for n, text in enumerate(("red", "a red and blue", "green", "red"))
]


class FakeReward:
    """Rewards short texts, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reward(self, texts: list[str]) -> list[float]:
        self.asked += texts
        return [1 / len(text) for text in texts]


def test_best_drops_what_has_a_low_reward() -> None:
    model = FakeReward()
    ctx = FakeContext(models={"reward": model})
    done = check_sample_stage(Best, BestConfig(least=0.3), SAMPLES, ctx)
    assert [sample.dropped for sample in done] == [
        None, "reward 0.07, below 0.3", "reward 0.20, below 0.3", None,
    ]  # fmt: skip
    # Results are stored as in a run: equal texts are scored once, also when the check runs the stage again.
    assert model.asked == ["red", "a red and blue", "green"]


def test_entailed_reads_a_row_per_pair() -> None:
    ctx = FakeContext(models={"nli": NliModel(NliConfig(), Site(Path()))})
    done = check_sample_stage(Entailed, EntailedConfig(), SAMPLES, ctx)
    assert [sample.dropped for sample in done] == [None, None, "entailment 0.00, below 0.5", None]
    rows = ctx.model("nli").use(Entails).entail([("a b", "a"), ("a b", "c d")])
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 0, 0], [0, 0.5, 0.5]]


def test_a_model_without_the_capability_is_refused() -> None:
    ctx = FakeContext(models={"reward": FakeEncoder()})
    with pytest.raises(ModelError, match=r"capability Rewards \(it has: Embeds\)"):
        ctx.model("reward").use(Rewards)


def test_the_backends_have_what_they_declare() -> None:
    assert check_backend(RewardModel, RewardConfig()).capabilities == {Rewards}
    assert check_backend(NliModel, NliConfig()).capabilities == {Entails}
