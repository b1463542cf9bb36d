"""ssToken: the mix by hand, and the attention to the prompt against the model's own output."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nfilter import Attends, ModelError, RecipeError, TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_hf.attention import read_attention
from nfilter_sstoken.select import Select, SelectConfig


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3,
        )
    ).eval()  # fmt: skip


class Reader:
    """A model that reads the attention of ``module``."""

    def __init__(self, module: Any) -> None:
        self.attention = partial(read_attention, module)


def sample(name: str, n: int, excess: Any = None, prompt: int = 3) -> TokenSample:
    response = np.arange(n) >= prompt
    drawn = np.random.default_rng(n).normal(size=n)
    values = np.where(response, drawn if excess is None else [0] * prompt + list(excess), np.nan)
    return TokenSample(
        id=name, ids=np.random.default_rng(n).integers(0, 50, n), response=response, turn=np.zeros(n, np.int16),
        spans=np.zeros((n, 2), np.int32), weights=response.astype(np.float32),
        scores={"excess": values.astype(np.float32)},
    )  # fmt: skip


def run(samples: list[TokenSample], module: Any = None, **config: Any) -> list[TokenSample]:
    ctx = FakeContext(models={"student": Reader(module)})
    return check_token_stage(Select, SelectConfig(**config), samples, ctx, bit=2)[0]


def kept(one: TokenSample) -> list[int]:
    return np.flatnonzero(one.weights).tolist()


def whole_attention(module: Any, one: TokenSample) -> Any:
    module.set_attn_implementation("eager")
    with torch.no_grad():
        out = module(torch.from_numpy(one.ids)[None], output_attentions=True)
    return out.attentions[-1][0].double().mean(0).numpy()


@pytest.mark.parametrize(
    ("keep", "wanted"), [(0.1, [4]), (0.5, [4, 6]), (0.6, [4, 5, 6]), (1.0, [3, 4, 5, 6])]
)
def test_without_attention_the_largest_fall_of_the_loss_is_kept(
    keep: float, wanted: list[int]
) -> None:
    (got,) = run([sample("a", 7, [-1.0, 3.0, 0.5, 1.0])], rho=1, keep=keep)
    assert kept(got) == wanted
    np.testing.assert_allclose(got.scores["sstoken"][3:], [0, 1, 1.5 / 4, 0.5])
    assert all(got.reasons[at] == 4 for at in range(3, 7) if at not in wanted)


def test_the_attention_to_the_prompt_is_that_of_the_last_layer() -> None:
    for one in (sample("a", 9), sample("b", 30, prompt=20)):
        (got,) = run([one], llama(), rho=0)
        wanted = whole_attention(llama(), one)[:, ~one.response].sum(-1)
        scores = got.scores["sstoken"]
        np.testing.assert_allclose(scores[one.response], wanted[one.response], rtol=1e-5)
        assert np.isnan(scores[~one.response]).all()


def test_the_mix_is_a_weighted_sum() -> None:
    one = sample("a", 12)
    attention = whole_attention(llama(), one)[:, ~one.response].sum(-1)
    fall = one.scores["excess"].astype(float)
    scaled = (fall - np.nanmin(fall)) / (np.nanmax(fall) - np.nanmin(fall))
    for rho in (0.0, 0.3, 0.5):
        (got,) = run([one], llama(), rho=rho, keep=0.5)
        mix = rho * scaled + (1 - rho) * attention
        np.testing.assert_allclose(got.scores["sstoken"][3:], mix[3:], rtol=1e-4)
        assert kept(got) == sorted((3 + np.argsort(-mix[3:])[:5]).tolist())


def test_equal_scores_keep_the_first_tokens() -> None:
    (got,) = run([sample("a", 8, [1.0] * 5)], rho=1, keep=0.3)
    assert kept(got) == [3, 4]  # ceil(1.5)


def test_a_sample_without_a_weight_is_unchanged() -> None:
    one = sample("a", 6).mask(np.ones(6, bool), 0)
    (got,) = run([one], rho=1)
    assert kept(got) == []
    assert got.reasons.tolist() == one.reasons.tolist()


def test_only_attention_needs_a_local_model() -> None:
    assert Select.contract(SelectConfig(rho=1)).needs == ()
    (need,) = Select.contract(SelectConfig(model="base")).needs
    assert (need.model, need.capability) == ("base", Attends)


def test_a_missing_score_is_named() -> None:
    with pytest.raises(RecipeError, match="no score 'rel' \\(available: excess\\)"):
        run([sample("a", 7)], rho=1, by="rel")
    assert run([sample("a", 7)], rho=1, by="excess")


@pytest.mark.types("set rho: 1, which reads no attention")
def test_a_model_without_attention_is_named() -> None:
    with pytest.raises(ModelError, match="Linear yields no attention weights"):
        run([sample("a", 7)], torch.nn.Linear(2, 2))
    assert run([sample("a", 7)], torch.nn.Linear(2, 2), rho=1)
