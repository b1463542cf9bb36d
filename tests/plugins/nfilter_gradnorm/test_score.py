"""gradnorm.score: norms against autograd and by hand, the ranking, and the control."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nfilter import Encodes, LendsModule, Message, ModelError, Sample, Verdict
from nfilter.testing import FakeContext, FakeTokenizer, check_sample_stage, token_sample
from nfilter_gradnorm.norm import head_norm
from nfilter_gradnorm.score import Score, ScoreConfig


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, **more,
        )
    ).eval()  # fmt: skip


class Local(FakeTokenizer):
    """Encodes characters and lends a module."""

    def __init__(self, module: Any = None) -> None:
        self.module = module or llama()

    @contextmanager
    def lend(self) -> Iterator[Any]:
        yield SimpleNamespace(module=self.module)


@pytest.mark.parametrize("response", ["", "7", "a longer response"])
def test_the_norm_is_that_of_the_gradient_of_the_output_matrix(response: str) -> None:
    module, sample = llama(), token_sample("a", response)
    ids = torch.from_numpy(sample.ids)
    labels = torch.where(torch.from_numpy(sample.predicted), ids, -100)
    module(input_ids=ids[None], labels=labels[None]).loss.backward()
    wanted = float(module.lm_head.weight.grad.double().norm())
    assert wanted > 0.1
    assert head_norm(module, sample) == pytest.approx(wanted, rel=1e-4)


def test_one_token_has_the_product_of_two_lengths() -> None:
    """|p - y| |h|: with logits of 0, p = 1/V, so |p - y| = sqrt(1 - 1/V)."""
    module = llama()
    with torch.no_grad():
        module.lm_head.weight.zero_()
    sample = token_sample("a", "")
    with torch.no_grad():
        states = module.base_model(input_ids=torch.from_numpy(sample.ids)[None, :-1])
    h = float(states.last_hidden_state[0, -1].norm())
    assert head_norm(module, sample) == pytest.approx(h * math.sqrt(1 - 1 / 128), rel=1e-5)


def test_without_a_prediction_there_is_no_norm() -> None:
    (sample,) = FakeTokenizer().encode([Sample("a", (Message("user", "why"),))])
    assert math.isnan(head_norm(llama(), sample))


def test_a_head_that_is_more_than_a_matrix_is_refused() -> None:
    class Scaled(LlamaForCausalLM):
        def forward(self, **given: Any) -> Any:
            return SimpleNamespace(logits=super().forward(**given).logits * 2)

    module = Scaled(llama().config).eval()
    with pytest.raises(ModelError, match="Scaled changes the logits after its output matrix"):
        head_norm(module, token_sample("a", "7"))
    assert not module.lm_head._forward_hooks
    assert head_norm(llama(), token_sample("a", "7")) > 0


TEXTS = ["1", "22", "abc", "", "x y", "longer than these"]


def pair(text: str, **more: Any) -> Sample:
    return Sample(text or "none", (Message("user", "why?"), Message("assistant", text)), **more)


def scored(samples: Any = None, **config: Any) -> list[Sample]:
    rows = [pair(text) for text in TEXTS] if samples is None else samples
    ctx = FakeContext(models={"student": Local()})
    return list(check_sample_stage(Score, ScoreConfig(**config), rows, ctx))


def test_the_largest_norms_are_flagged() -> None:
    norms = [head_norm(llama(), one) for one in FakeTokenizer().encode([pair(t) for t in TEXTS])]
    ranks = np.argsort(np.argsort(norms))
    done = scored(keep=0.5)
    verdicts = [Verdict.of(sample, "gradnorm") for sample in done]
    assert all(sample.dropped is None for sample in done)
    for verdict, norm, rank in zip(verdicts, norms, ranks, strict=True):
        assert verdict is not None
        assert verdict.more["norm"] == pytest.approx(norm, rel=1e-5)
        assert verdict.noise_score == pytest.approx(rank / 5)
        assert verdict.flagged == (rank >= 3)
    dropped = [sample.dropped is not None for sample in scored(keep=0.5, drop=True)]
    assert dropped == [bool(rank >= 3) for rank in ranks]
    assert not any(sample.dropped for sample in scored(keep=1, drop=True))


def test_pinned_samples_stay_and_a_sample_without_a_loss_has_no_verdict() -> None:
    rows = [pair(text, pinned=True) for text in TEXTS]
    bare = Sample("bare", (Message("user", "why?"),))
    done = scored([*rows, bare], keep=0.1, drop=True)
    assert all(sample.dropped is None for sample in done)
    assert [Verdict.of(sample, "gradnorm") is None for sample in done] == [False] * 6 + [True]


def test_the_control_flags_as_many_and_reads_no_model() -> None:
    ctx = FakeContext()
    rows = [pair(f"{i}") for i in range(40)]
    done = check_sample_stage(Score, ScoreConfig(keep=0.75, random=True, drop=True), rows, ctx)
    assert sum(sample.dropped is not None for sample in done) == 10
    assert Score.contract(ScoreConfig(random=True)).needs == ()
    needs = Score.contract(ScoreConfig(model="m")).needs
    assert [(need.model, need.capability) for need in needs] == [("m", Encodes), ("m", LendsModule)]
