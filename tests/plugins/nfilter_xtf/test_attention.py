"""Attention received, against the full weights and models with known attention."""

import numpy as np
import pytest
import torch

from nfilter_xtf import attention


@pytest.fixture
def importances(lender):
    """Return a function from a module and samples to the scores of all samples."""

    def scores(module, *arguments):
        return list(attention.importances(lender(module), *arguments))

    return scores


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
def test_scores_equal_a_reduction_of_the_full_weights(preset, tokens, small, importances):
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


def test_uniform_attention_scores_one_except_for_the_last_token(tokens, small, importances):
    module = small()
    with torch.no_grad():
        for layer in module.model.layers:
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.k_proj.weight.zero_()
    (got,) = importances(module, [tokens("a", np.arange(40))], "default")
    np.testing.assert_allclose(got[:-1], 1, atol=1e-6)
    assert np.isnan(got[-1])


@pytest.mark.parametrize("j", [0, 3, 17])
def test_a_planted_head_makes_its_token_the_maximum(j, tokens, small, importances):
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


def test_official_is_one_over_t(tokens, small, importances):
    for n in (5, 37):
        (got,) = importances(small(), [tokens("a", np.arange(n))], "official")
        np.testing.assert_allclose(got, 1 / n, rtol=1e-6)


def test_official_reads_the_first_layer_alone(tokens, small, importances):
    """NaN weights in the second layer reach every preset but the published code's."""
    module = small()
    with torch.no_grad():
        module.model.layers[1].self_attn.q_proj.weight.fill_(float("nan"))
    sample = tokens("a", np.arange(6))
    (official,), (paper,) = (importances(module, [sample], p) for p in ("official", "paper"))
    np.testing.assert_allclose(official, 1 / 6, rtol=1e-6)
    assert np.isnan(paper).all()


def test_neither_other_samples_nor_order_change_a_score(tokens, small, importances):
    samples = drawn(np.random.default_rng(1), tokens)
    together = importances(small(), samples, "default")
    backwards = importances(small(), samples[::-1], "default")[::-1]
    for sample, a, b in zip(samples, together, backwards, strict=True):
        (alone,) = importances(small(), [sample], "default")
        assert np.array_equal(a, alone, equal_nan=True)
        assert np.array_equal(b, alone, equal_nan=True)


def test_a_sample_without_a_response_is_not_read(tokens, small, importances):
    advanced = []
    (got,) = importances(
        without_forward(small()), [tokens("a", [1, 2], [0, 0])], "default", advanced.append
    )
    assert np.isnan(got).all()
    assert advanced == [2]


def without_forward(module):
    module.model.forward = None
    return module
