"""Attention received, against the full weights and models with known attention; the module is restored."""

import weakref
from contextlib import closing

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nfilter import ModelError
from nfilter_xtf import attention


def importances(*arguments):
    """The scores of all samples."""
    return list(attention.importances(*arguments))


def drawn(rng, tokens, lengths=(1, 2, 9, 30)):
    out = []
    for i, n in enumerate(lengths):
        response = np.arange(n) >= n // 3
        out.append(tokens(f"s{i}", rng.integers(0, 50, n), response))
    return out


def all_weights(module, ids):
    """Return the model's own attention output [T, T], averaged over layers and heads."""
    module.set_attn_implementation("eager")
    with torch.no_grad():
        out = module(torch.from_numpy(ids)[None], output_attentions=True)
    return torch.cat(out.attentions).double().mean((0, 1)).numpy()


@pytest.mark.parametrize("preset", ["default", "paper", "official"])
def test_scores_equal_a_reduction_of_the_full_weights(preset, tokens, small):
    samples = drawn(np.random.default_rng(0), tokens)
    for sample, got in zip(samples, importances(small(), samples, preset), strict=True):
        a = all_weights(small(), sample.ids)
        n = len(sample.ids)
        wanted = np.full(n, np.nan)
        for j in np.flatnonzero(sample.response):
            if preset == "default" and j < n - 1:
                wanted[j] = np.mean([(i + 1) * a[i, j] for i in range(j + 1, n)])
            elif preset == "paper":
                wanted[j] = np.mean([a[i, j] for i in range(n)])
            elif preset == "official":
                wanted[j] = np.mean([a[j, k] for k in range(n)])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


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
def test_other_architectures(kind, tokens):
    torch.manual_seed(0)
    settings = AutoConfig.for_model(
        kind, vocab_size=50, bos_token_id=1, eos_token_id=2, **KINDS[kind]
    )
    module = AutoModelForCausalLM.from_config(settings).eval()
    parts = attention._attention_modules(module)
    assert len(parts) == 2
    sample = tokens("a", np.random.default_rng(0).integers(3, 50, 24))
    (got,) = importances(module, [sample], "default")
    a = all_weights(module, sample.ids)
    wanted = [np.mean([(i + 1) * a[i, j] for i in range(j + 1, 24)]) for j in range(23)]
    np.testing.assert_allclose(got[:-1], wanted, rtol=1e-5)


def test_uniform_attention_scores_one_except_for_the_last_token(tokens, small):
    module = small()
    with torch.no_grad():
        for layer in module.model.layers:
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.k_proj.weight.zero_()
    (got,) = importances(module, [tokens("a", np.arange(40))], "default")
    np.testing.assert_allclose(got[:-1], 1, atol=1e-6)
    assert np.isnan(got[-1])


@pytest.mark.parametrize("j", [0, 3, 17])
def test_a_planted_head_makes_its_token_the_maximum(j, tokens, small):
    """Every query points along one axis, and only token 7's key does, so it receives all attention from position j on."""
    module = small(
        num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, rope_theta=1e15
    )
    slow = 32 // 2 - 1  # the axis with the lowest rotary frequency
    with torch.no_grad():
        module.model.embed_tokens.weight.zero_()
        module.model.embed_tokens.weight[:, 0] = 1
        module.model.embed_tokens.weight[7, 1] = 1
        for name, axis in (("q_proj", 0), ("k_proj", 1)):
            weight = getattr(module.model.layers[0].self_attn, name).weight
            weight.zero_()
            weight[slow, axis] = 30
    ids = np.full(20, 3)
    ids[j] = 7
    (got,) = importances(module, [tokens("a", ids)], "default")
    assert int(np.nanargmax(got)) == j
    # The mean over i > j of i + 1, as the token receives all attention.
    assert got[j] == pytest.approx(np.mean(np.arange(j + 1, 20) + 1.0), rel=1e-4)


def test_official_is_one_over_t(tokens, small):
    for n in (5, 37):
        (got,) = importances(small(), [tokens("a", np.arange(n))], "official")
        np.testing.assert_allclose(got, 1 / n, rtol=1e-6)


def test_official_reads_the_first_layer_alone(tokens, small):
    """NaN weights in the second layer reach every preset but the published code's."""
    module = small()
    with torch.no_grad():
        module.model.layers[1].self_attn.q_proj.weight.fill_(float("nan"))
    sample = tokens("a", np.arange(6))
    (official,), (paper,) = (importances(module, [sample], p) for p in ("official", "paper"))
    np.testing.assert_allclose(official, 1 / 6, rtol=1e-6)
    assert np.isnan(paper).all()


def test_neither_other_samples_nor_order_change_a_score(tokens, small):
    samples = drawn(np.random.default_rng(1), tokens)
    together = importances(small(), samples, "default")
    backwards = importances(small(), samples[::-1], "default")[::-1]
    for sample, a, b in zip(samples, together, backwards, strict=True):
        (alone,) = importances(small(), [sample], "default")
        assert np.array_equal(a, alone, equal_nan=True)
        assert np.array_equal(b, alone, equal_nan=True)


@pytest.mark.parametrize("kept", [False, True])
def test_attention_weights_are_freed_layer_by_layer(kept, tokens, small, monkeypatch):
    """When a layer's weights are reduced, those of earlier layers are freed, unless the test keeps references."""
    refs, alive, hoard = [], [], []
    reduce = attention._mean_from_later

    def watched(weights):
        alive.append(sum(ref() is not None for ref in refs))
        assert weights._base.shape == (1, 4, 20, 20)
        refs.append(weakref.ref(weights._base))
        if kept:
            hoard.append(weights)
        return reduce(weights)

    monkeypatch.setattr(attention, "_mean_from_later", watched)
    importances(small(num_hidden_layers=4), [tokens("a", np.arange(20))], "default")
    assert alive == ([0, 1, 2, 3] if kept else [0, 0, 0, 0])


def state_of(module):
    hooks = [len(part._forward_hooks) for part in module.modules()]
    return module.config._attn_implementation, hooks, [part.training for part in module.modules()]


def test_the_module_is_restored(tokens, small):
    module = small()
    module.set_attn_implementation("sdpa")
    module.train()
    before = state_of(module)
    importances(module, [tokens("a", np.arange(5))], "default")
    assert state_of(module) == before


def test_the_module_is_restored_where_only_some_scores_are_read(tokens, small):
    module = small()
    module.set_attn_implementation("sdpa")
    before = state_of(module)
    samples = [tokens(name, np.arange(5)) for name in "ab"]
    with closing(attention.importances(module, samples, "default")) as scores:
        next(scores)
        assert state_of(module) != before
    assert state_of(module) == before


@pytest.mark.parametrize("where", ["forward", "length", "weights"])
def test_the_module_is_restored_after_an_error(where, tokens, small, monkeypatch):
    module = small()
    module.set_attn_implementation("sdpa")
    before = state_of(module)
    sample = tokens(
        "long" if where == "length" else "a",
        np.arange(200) % 50 if where == "length" else np.arange(9),
    )
    if where == "forward":
        monkeypatch.setattr(module.model.layers[1].mlp, "forward", lambda x: 1 / 0)
        error, words = ZeroDivisionError, "zero"
    elif where == "length":
        error, words = ModelError, r"'long' has 200 tokens.*encode\.max_length to 128"
    else:
        monkeypatch.setattr(module, "set_attn_implementation", lambda kind: None)
        error, words = ModelError, "LlamaAttention yields no attention weights"
    with pytest.raises(error, match=words):
        importances(module, [sample], "default")
    assert state_of(module) == before


@pytest.mark.types(
    "it has no eager attention implementation; name another",
    "with eager attention; name another model",
)
def test_a_model_without_attention_is_refused(tokens, small):
    bare = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"Linear yields no attention weights.*name another model"):
        importances(bare, [tokens("a", [1, 2])], "default")
    module = small(num_hidden_layers=0)
    with pytest.raises(ModelError, match="LlamaForCausalLM yields no attention weights"):
        importances(module, [tokens("a", [1, 2])], "default")
    assert importances(small(), [tokens("a", [1, 2])], "default")


def test_a_sample_without_a_response_is_not_read(tokens, small):
    advanced = []
    (got,) = importances(
        without_forward(small()), [tokens("a", [1, 2], [0, 0])], "default", advanced.append
    )
    assert np.isnan(got).all()
    assert advanced == [2]


def without_forward(module):
    module.model.forward = None
    return module


@pytest.mark.types(
    "lower encode.max_length, or set device: cpu for this model",
    "set encode.max_length to «» or less",
)
def test_a_shorter_sample_fits(tokens, small, monkeypatch):
    module = small()
    forward = module.model.forward

    def crowded(*args, **kwargs):
        if kwargs["input_ids"].shape[1] > 9:
            raise torch.OutOfMemoryError("full")
        return forward(*args, **kwargs)

    monkeypatch.setattr(module.model, "forward", crowded)
    with pytest.raises(ModelError, match=r"lower encode\.max_length, or set device: cpu"):
        importances(module, [tokens("a", np.arange(20))], "default")
    assert importances(module, [tokens("a", np.arange(9))], "default")
    monkeypatch.undo()
    assert importances(module, [tokens("a", np.arange(128) % 50)], "default")
