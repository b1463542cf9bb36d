"""``prift.score``: weights of a frozen model, against full logits and known probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nfilter import LendsModule, Scores, TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_losses import frozen
from nfilter_losses.frozen import Frozen, FrozenConfig

VOCABULARY = 30


class Table(torch.nn.Module):
    """A causal model whose logits depend on the current token alone."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        drawn = torch.from_numpy(rng.normal(0, 2, (VOCABULARY, VOCABULARY)))
        self.table = torch.nn.Parameter(drawn.float())
        self.calls = 0

    def forward(self, input_ids: Any, use_cache: bool) -> Any:
        assert not use_cache
        self.calls += 1
        return SimpleNamespace(logits=self.table[input_ids])


class Lender:
    """A model that lends the table, or gives the losses of it."""

    def __init__(self) -> None:
        self.module = Table()

    @contextmanager
    def lend(self) -> Iterator[Any]:
        yield SimpleNamespace(module=self.module)

    def score(self, samples: list[TokenSample]) -> list[Any]:
        return [-np.log(by_hand(self, sample, "dft")).astype(np.float32) for sample in samples]


def sample(name: str, n: int) -> TokenSample:
    ids = np.random.default_rng(n).integers(0, VOCABULARY, n)
    response = np.arange(n) >= n // 3
    return TokenSample(
        id=name, ids=ids, response=response, turn=np.zeros(n, np.int16), spans=np.zeros((n, 2), np.int32),
        weights=response.astype(np.float32),
    )  # fmt: skip


SAMPLES = [sample(f"s{n}", n) for n in (2, 3, 9, 20)]


def by_hand(lender: Lender, one: TokenSample, rule: str) -> Any:
    out = np.full(len(one.ids), np.nan)
    logits = lender.module.table.detach().double().numpy()
    for at in np.flatnonzero(one.predicted):
        p = np.exp(logits[one.ids[at - 1]])
        p /= p.sum()
        label = p[one.ids[at]]
        most = np.sort(p)[-20:] / np.sort(p)[-20:].sum()
        out[at] = {
            "dft": label,
            "profit": float(label >= 0.1),
            "deft": label ** (p**2).sum(),
            "eaft": -(most * np.log(most)).sum() / np.log(20),
        }[rule]
    return out


@pytest.mark.parametrize("rule", ["dft", "profit", "deft", "eaft"])
def test_weights_are_those_of_the_rule_under_the_frozen_model(
    rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_LOGITS", 4 * VOCABULARY)
    lender = Lender()
    ctx = FakeContext(models={"student": lender})
    done, _ = check_token_stage(Frozen, FrozenConfig(rule=rule), SAMPLES, ctx)
    for one, got in zip(SAMPLES, done, strict=True):
        np.testing.assert_allclose(got.scores["prift"], by_hand(lender, one, rule), rtol=1e-4)
        assert np.array_equal(got.weights, one.weights)
        assert not got.reasons.any()
    if rule in ("deft", "eaft"):
        assert lender.module.calls == len(SAMPLES)


def test_a_response_without_a_prediction_is_not_read() -> None:
    lender = Lender()
    ctx = FakeContext(models={"student": lender})
    (got,), _ = check_token_stage(Frozen, FrozenConfig(rule="deft"), [sample("s1", 1)], ctx)
    assert lender.module.calls == 0
    assert np.isnan(got.scores["prift"]).tolist() == [True]


def test_only_rules_over_the_vocabulary_need_a_local_model() -> None:
    needs = {
        rule: Frozen.contract(FrozenConfig(rule=rule, model="base")).needs[0]
        for rule in ("dft", "profit", "deft", "eaft")
    }
    assert {rule: need.capability for rule, need in needs.items()} == {
        "dft": Scores, "profit": Scores, "deft": LendsModule, "eaft": LendsModule,
    }  # fmt: skip
    assert {need.model for need in needs.values()} == {"base"}
