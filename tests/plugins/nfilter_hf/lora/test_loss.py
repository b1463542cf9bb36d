"""The arithmetic of training, without a trainer: rows, splits, coefficients, the chunked loss, the schedule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from nfilter import TokenSample
from nfilter_hf.lora.data import (
    coefficients,
    micro_batches,
    split_rows,
    step_count,
    step_order,
    training_row,
)
from nfilter_hf.lora.loss import backward_weighted
from nfilter_hf.lora.settings import lr_factor
from nfilter_hf.loss import chunk_size, output_head, token_losses


def sample(ids: list[int], weights: list[float]) -> TokenSample:
    length = len(ids)
    return TokenSample(
        id="a",
        ids=np.asarray(ids, dtype=np.int64),
        response=np.asarray(weights) != 0,
        turn=np.zeros(length, dtype=np.int16),
        spans=np.zeros((length, 2), dtype=np.int32),
        weights=np.asarray(weights, dtype=np.float32),
    )


def test_a_row_predicts_each_weighted_token_from_those_before_it_and_ends_with_the_last() -> None:
    row = training_row(sample([5, 6, 7, 8, 9, 3], [0, 0, 0.5, 0, 2, 0]))
    assert row is not None
    assert row.inputs.tolist() == [5, 6, 7, 8]
    assert row.positions.tolist() == [1, 3]
    assert row.labels.tolist() == [7, 9]
    assert row.weights.tolist() == [0.5, 2.0]


@pytest.mark.parametrize("weights", [[0.0, 0, 0], [1.0, 0, 0]])
def test_a_row_without_a_weighted_prediction_is_no_row(weights: list[float]) -> None:
    assert training_row(sample([1, 2, 3], weights)) is None


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="'a': a weight is not finite"):
        training_row(sample([1, 2, 3], [0, math.nan, 1]))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(1, 200),
)
@settings(max_examples=100)
def test_every_row_is_in_one_pass_and_no_shared_pass_exceeds_the_budget(
    lengths: list[int], budget: int
) -> None:
    groups = split_rows(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_the_order_shows_every_sample_once_an_epoch_and_depends_on_the_seed() -> None:
    steps = step_count(10, 4, epochs=2, max_steps=None)
    assert steps == 6
    order = list(step_order(10, 4, steps, seed=1))
    assert [len(step) for step in order] == [4, 4, 2, 4, 4, 2]
    first, second = [*itertools.chain(*order[:3])], [*itertools.chain(*order[3:])]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert order == list(step_order(10, 4, steps, seed=1))
    assert order != list(step_order(10, 4, steps, seed=2))
    assert step_count(10, 4, epochs=2, max_steps=3) == 3
    assert step_count(10, 4, epochs=2, max_steps=30) == 6


def test_coefficients_are_the_three_definitions() -> None:
    w = [np.float32([1, 1, 2]), np.float32([0.5]), np.float32([3, 1])]
    groups = [[w[0], w[1]], [w[2]]]
    tokens = coefficients(groups, "tokens")
    np.testing.assert_allclose(tokens[0][0], np.array([1, 1, 2]) / 8.5, rtol=1e-6)
    np.testing.assert_allclose(tokens[1][0], np.array([3, 1]) / 8.5, rtol=1e-6)
    samples = coefficients(groups, "samples")
    total = 4 / 3 + 0.5 + 4 / 2
    np.testing.assert_allclose(samples[0][0], np.array([1, 1, 2]) / 3 / total, rtol=1e-6)
    np.testing.assert_allclose(samples[0][1], np.array([0.5]) / total, rtol=1e-6)
    micro = coefficients(groups, "microbatch")
    np.testing.assert_allclose(micro[0][0], np.array([1, 1, 2]) / 4.5 / 2, rtol=1e-6)
    np.testing.assert_allclose(micro[1][0], np.array([3, 1]) / 4 / 2, rtol=1e-6)
    for norm in (tokens, samples, micro):
        assert sum(float(c.sum()) for group in norm for c in group) == pytest.approx(1, abs=1e-6)


def test_padding_stands_behind_and_positions_are_flat() -> None:
    rows = [
        training_row(sample(ids, w))
        for ids, w in (([1, 2, 3], [0, 0, 1]), ([4, 5, 6, 7], [0, 1, 0, 1]))
    ]
    (batch,) = micro_batches([row for row in rows if row], 100, "tokens")
    assert batch.inputs.tolist() == [[4, 5, 6], [1, 2, 0]]
    assert batch.positions.tolist() == [0, 2, 4]
    assert batch.labels.tolist() == [5, 7, 3]


def test_token_losses_are_negative_log_probabilities_in_float32() -> None:
    logits = torch.tensor([[1000.0, 992.0, 0.0], [-3.0, 2.0, 0.5]], dtype=torch.float64)
    labels = torch.tensor([1, 2])
    wanted = -torch.log_softmax(logits, -1)[torch.arange(2), labels]
    got = token_losses(logits.to(torch.bfloat16), labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_chunked_backward_pass_is_the_whole_one(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.nn.Linear(6, 11, bias=False)
    start = torch.randn(7, 6, generator=generator)
    labels = torch.randint(0, 11, (7,), generator=generator)
    factors = torch.randn(7, generator=generator)  # an online loss may have negative weights
    scale = torch.nn.Parameter(torch.ones(6))
    whole = (factors * -torch.log_softmax(matrix(start * scale), -1)[torch.arange(7), labels]).sum()
    wanted = torch.autograd.grad(whole, [scale, matrix.weight])
    got = backward_weighted(matrix, start * scale, labels, factors, chunk)
    torch.testing.assert_close(got, whole.detach())
    torch.testing.assert_close((scale.grad, matrix.weight.grad), wanted)


def test_a_chunk_bounds_the_logits() -> None:
    for device, most in (("cuda", 2**27), ("cpu", 2**24)):
        size = chunk_size(128_000, device)
        assert size * 128_000 * 4 <= most < (size + 1) * 128_000 * 4
    assert chunk_size(2**40) == 1


@pytest.mark.parametrize("kind", ["gemma2", "granite"])
def test_the_head_holds_what_stands_behind_the_output_matrix(kind: str) -> None:
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "gemma2":
        model = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8, final_logit_softcapping=0.05))
    else:
        model = GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0))
    ids = torch.tensor([[3, 9, 4, 7]])
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_()
        hidden = model.eval().base_model(input_ids=ids).last_hidden_state
        wanted = model(input_ids=ids).logits
        got = output_head(model)(hidden)
        raw = model.get_output_embeddings()(hidden)
    torch.testing.assert_close(got, wanted)
    assert not torch.allclose(raw, wanted, atol=1e-2)


def test_the_learning_rate_rises_and_falls_as_named() -> None:
    assert [lr_factor(i, 10, 0.3, "constant") for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    linear = [lr_factor(i, 10, 0.2, "linear") for i in range(2, 10)]
    assert linear == pytest.approx([1 - i / 8 for i in range(8)])
    cosine = [lr_factor(i, 10, 0.2, "cosine") for i in range(2, 10)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)])
    assert lr_factor(0, 1, 0.03, "linear") > 0
    assert lr_factor(0, 1, 0.0, "linear") == 1
