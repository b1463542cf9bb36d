"""Attributions of the backend hf: against the model's own log-probabilities and gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nfilter import Attributes, FloatArray, ModelError, Sample, TokenSample
from nfilter.testing import token_sample
from nfilter_hf.attribution import read_attributions


def llama(pad: int | None = 1) -> Any:
    torch.manual_seed(0)
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=pad, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        module.get_input_embeddings().weight[1] = torch.randn(32) * 0.3
    return module


class Parts:
    """The response up to its last line, and the last line with the end of the turn."""

    def __init__(self, sample: TokenSample) -> None:
        at = np.flatnonzero(sample.response).astype(np.int64)
        line = int(np.flatnonzero(sample.ids == 10)[-1])
        self.reasoning, self.answer = at[at <= line], at[at > line]


def attributed(module: Any, sample: TokenSample, parts: Parts, steps: int) -> FloatArray:
    (found,) = read_attributions(module, [sample], lambda _: (parts.reasoning, parts.answer), steps)
    return found


def answer_logp(module: Any, sample: TokenSample, vectors: Any, answer: np.ndarray) -> float:
    with torch.no_grad():
        logs = module(inputs_embeds=vectors[None]).logits[0].double().log_softmax(-1)
    return float(sum(logs[at - 1, sample.ids[at]] for at in answer))


@pytest.mark.parametrize("pad", [1, None])
def test_attributions_add_up_to_what_the_reasoning_adds_to_the_answer(pad: int | None) -> None:
    module, sample = llama(pad), token_sample("a", "12\n\nWait\x01\x013\n4")
    parts = Parts(sample)
    real = module.get_input_embeddings()(torch.from_numpy(sample.ids)).detach()
    if pad is None:
        # The baseline is the mean of all embeddings; token 1 is made equal to it.
        table = module.get_input_embeddings().weight.detach()
        table[1] = (table.sum(0) - table[1]) / 127
        real = table[torch.from_numpy(sample.ids)]
    base = real.clone()
    base[torch.from_numpy(parts.reasoning)] = module.get_input_embeddings().weight.detach()[1]
    got = attributed(module, sample, parts, 400)
    added = answer_logp(module, sample, real, parts.answer) - answer_logp(
        module, sample, base, parts.answer
    )
    assert abs(added) > 0.1
    assert float(np.nansum(got)) == pytest.approx(added, rel=0.02)
    # A token that is the baseline adds nothing; outside the reasoning there are no attributions.
    np.testing.assert_allclose(got[sample.ids == 1], 0, atol=1e-6)
    assert np.flatnonzero(~np.isnan(got)).tolist() == parts.reasoning.tolist()
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_one_step_is_the_gradient_in_the_middle_of_the_line() -> None:
    module, sample = llama(), token_sample("a", "12\n\nWait\n4")
    parts = Parts(sample)
    ids = torch.from_numpy(sample.ids)
    embed = module.get_input_embeddings()
    with torch.no_grad():
        real, base = embed(ids), embed(torch.tensor(1))
    inside = torch.from_numpy(np.isin(np.arange(len(ids)), parts.reasoning))[:, None]
    middle = torch.where(inside, (real + base) / 2, real).requires_grad_()
    logs = module(inputs_embeds=middle[None]).logits[0].log_softmax(-1)
    sum(logs[at - 1, ids[at]] for at in parts.answer).backward()
    assert middle.grad is not None
    wanted = (middle.grad * (real - base)).sum(-1).numpy()[parts.reasoning]
    got = attributed(module, sample, parts, 1)[parts.reasoning]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_other_samples_and_the_number_of_targets_change_nothing() -> None:
    module = llama()
    samples = [token_sample("a", "12\n4"), token_sample("b", "3"), token_sample("c", "7 8\n90")]
    none = np.zeros(0, dtype=np.int64)

    def select(sample: TokenSample) -> Any:
        if sample.id == "b":
            return none, np.flatnonzero(sample.response)
        parts = Parts(sample)
        return parts.reasoning, parts.answer

    found = list(read_attributions(module, samples, select, 3))
    assert np.isnan(found[1]).all()
    for place in (0, 2):
        alone = attributed(llama(), samples[place], Parts(samples[place]), 3)
        np.testing.assert_array_equal(found[place], alone)


def test_a_sample_that_exceeds_the_context_is_named() -> None:
    sample = token_sample("long", "1" * 60 + "\n2")
    with pytest.raises(
        ModelError, match="sample 'long' has 72 tokens, more than the model's context of 64"
    ):
        attributed(llama(), sample, Parts(sample), 2)
    short = token_sample("long", "1\n2")
    assert attributed(llama(), short, Parts(short), 2).shape == short.ids.shape


@pytest.mark.types("do not fit in memory; lower")
def test_gradients_that_do_not_fit_in_memory_name_the_sample() -> None:
    class Full(LlamaForCausalLM):
        def forward(self, **given: Any) -> Any:
            raise torch.OutOfMemoryError("out of memory")

    sample = token_sample("a", "12\n4")
    module = Full(llama().config).eval()
    with pytest.raises(ModelError, match=r"sample 'a': the gradients of \d+ tokens do not fit"):
        attributed(module, sample, Parts(sample), 2)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_embedded_model_attributes(open_backend: Any) -> None:
    from nfilter import Message
    from nfilter_tiny import MODEL_DIR

    model = open_backend(MODEL_DIR)
    assert isinstance(model, Attributes)
    row = Sample("a", (Message("user", "2+3"), Message("assistant", "5")))
    (one,) = model.encode([row], max_length=64, turns="all")
    before, after = np.flatnonzero(~one.response)[1:], np.flatnonzero(one.response)
    (got,) = model.attributions([one], lambda _: (before, after), 20)
    assert np.isfinite(got[before]).all()
    assert np.abs(got[before]).max() > 0.1
    assert np.isnan(got[after]).all()
