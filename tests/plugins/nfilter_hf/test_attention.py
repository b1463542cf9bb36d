"""Attention weights, against the model's own output; the module is restored."""

import weakref
from contextlib import closing

import numpy as np
import pytest
import torch
from lent_llama import llama, sample
from transformers import AutoConfig, AutoModelForCausalLM

from nfilter import ModelError
from nfilter_hf.attention import attention_modules, read_attention


def received(weights, one):
    """The mean over heads and queries, [T]."""
    assert weights.shape[1:] == (len(one.ids), len(one.ids))
    return weights.float().mean(0).mean(0)


def read(module, samples, *layers):
    return list(read_attention(module, samples, received, *layers))


def own_output(module, ids):
    """Return the mean attention that each token receives, by layer, from the model's own output."""
    module.set_attn_implementation("eager")
    with torch.no_grad():
        out = module(torch.from_numpy(ids)[None], output_attentions=True)
    return [layer[0].mean((0, 1)).numpy() for layer in out.attentions]


KINDS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    # Nested attention modules, and a window.
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 8, "max_position_embeddings": 64, "intermediate_size": 48,
    },
    "qwen3": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_gives_one_array_per_layer(kind):
    torch.manual_seed(0)
    settings = AutoConfig.for_model(
        kind, vocab_size=50, bos_token_id=1, eos_token_id=2, **KINDS[kind]
    )
    module = AutoModelForCausalLM.from_config(settings).eval()
    assert len(attention_modules(module)) == 2
    one = sample(0, length=24)
    (got,) = read(module, [one])
    for layer, wanted in zip(got, own_output(module, one.ids), strict=True):
        np.testing.assert_allclose(layer, wanted, rtol=1e-5)


def test_only_the_requested_layers_are_read():
    module, one = llama(layers=3), sample(0, length=9)
    ((first, _, last),) = read(module, [one])
    ((got_first,), (got_last,)) = (
        read(module, [one], layers)[0] for layers in (slice(1), slice(-1, None))
    )
    assert np.array_equal(got_first, first)
    assert np.array_equal(got_last, last)


@pytest.mark.parametrize("kept", [False, True])
def test_attention_weights_are_freed_layer_by_layer(kept):
    """When a layer's weights are reduced, those of earlier layers are freed, unless the test keeps references."""
    refs, alive, hoard = [], [], []

    def watched(weights, one):
        alive.append(sum(ref() is not None for ref in refs))
        assert weights._base.shape == (1, 4, 20, 20)
        refs.append(weakref.ref(weights._base))
        if kept:
            hoard.append(weights)
        return received(weights, one)

    list(read_attention(llama(layers=4), [sample(0, length=20)], watched))
    assert alive == ([0, 1, 2, 3] if kept else [0, 0, 0, 0])


def state_of(module):
    hooks = [len(part._forward_hooks) for part in module.modules()]
    return module.config._attn_implementation, hooks


def test_the_module_is_restored():
    module = llama()
    module.set_attn_implementation("sdpa")
    before = state_of(module)
    read(module, [sample(0)])
    assert state_of(module) == before


def test_the_module_is_restored_where_only_some_samples_are_read():
    module = llama()
    module.set_attn_implementation("sdpa")
    before = state_of(module)
    with closing(read_attention(module, [sample(0), sample(1)], received)) as layers:
        next(layers)
        assert state_of(module) != before
    assert state_of(module) == before


def test_a_model_in_training_is_read_in_eval_mode(backend):
    model = backend()
    one = sample(0, length=9)
    (wanted,) = model.attention([one], received)
    with model.lend() as lent:
        lent.module.train()
        (got,) = model.attention([one], received)
        assert all(part.training for part in lent.module.modules())
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("where", ["forward", "length", "weights"])
def test_the_module_is_restored_after_an_error(where, monkeypatch):
    module = llama()
    module.set_attn_implementation("sdpa")
    before = state_of(module)
    one = sample(7, length=200 if where == "length" else 9)
    if where == "forward":
        monkeypatch.setattr(module.model.layers[1].mlp, "forward", lambda x: 1 / 0)
        error, words = ZeroDivisionError, "zero"
    elif where == "length":
        error, words = ModelError, r"'7' has 200 tokens.*encode\.max_length to 64"
    else:
        monkeypatch.setattr(module, "set_attn_implementation", lambda kind: None)
        error, words = ModelError, "LlamaAttention yields no attention weights"
    with pytest.raises(error, match=words):
        read(module, [one])
    assert state_of(module) == before


def test_a_model_without_attention_is_refused():
    bare = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"Linear yields no attention weights.*name another model"):
        read(bare, [sample(0)])
    with pytest.raises(ModelError, match="LlamaForCausalLM yields no attention weights"):
        read(llama(layers=0), [sample(0)])
    assert read(llama(), [sample(0)])


@pytest.mark.types(
    "lower encode.max_length, or set device: cpu for this model",
    "set encode.max_length to «» or less",
)
def test_a_shorter_sample_fits(monkeypatch):
    module = llama()
    forward = module.model.forward

    def crowded(*args, **kwargs):
        if kwargs["input_ids"].shape[1] > 9:
            raise torch.OutOfMemoryError("full")
        return forward(*args, **kwargs)

    monkeypatch.setattr(module.model, "forward", crowded)
    with pytest.raises(ModelError, match=r"lower encode\.max_length, or set device: cpu"):
        read(module, [sample(0, length=20)])
    assert read(module, [sample(0, length=9)])
    monkeypatch.undo()
    assert read(module, [sample(0, length=64)])
