"""A row's loss and gradient are its own, whatever shares its forward pass; and what a step does in other floats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from nfilter.testing import FakeContext
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.data import MicroBatch, TrainRow, micro_batches
from nfilter_hf.lora.settings import LoraSettings, pass_tokens
from nfilter_hf.lora.step import StepLoss

VOCABULARY = 50
DEVICE = torch.device("cpu")


def model(kind: str) -> Any:
    """Random and far from uniform; ``llama`` turns positions into rotations, ``gpt2`` has a vector for each."""
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2,
                resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
        )
    )  # fmt: skip


def row(index: int) -> TrainRow:
    rng = np.random.default_rng(index)
    length = int(rng.integers(5, 30))
    positions = np.flatnonzero(rng.random(length) < 0.4)
    positions = np.union1d(positions, [length - 1])
    return TrainRow(
        inputs=rng.integers(0, VOCABULARY, length),
        positions=positions,
        labels=rng.integers(0, VOCABULARY, len(positions)),
        weights=rng.choice([0.25, 1, 3], len(positions)).astype(np.float32),
    )


ROWS = [row(i) for i in range(7)]


@contextmanager
def steps(kind: str, **config: Any) -> Iterator[tuple[StepLoss, list[Any]]]:
    """The loss of a step on a model whose adapter already does something, and the adapter's tensors."""
    module = model(kind)
    with attached(module, rank=4, alpha=16.0, dropout=0.0, targets=None) as wrapped:
        parameters = [p for p in wrapped.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter in parameters:
                parameter.normal_(0, 0.2)
        wrapped.train()
        step = StepLoss(module, LoraSettings(rank=4, **config), DEVICE, FakeContext())
        step.check_head(ROWS[0])
        yield step, parameters


def only(batch: MicroBatch, kept: TrainRow) -> MicroBatch:
    """The batch as it runs, with a coefficient of 1 for each prediction of one row and 0 for the others."""
    of = np.concatenate([np.full(len(r.labels), r is kept) for r in batch.rows])
    return replace(batch, coefficients=of.astype(np.float32))


def losses_of_a_row(
    step: StepLoss, parameters: list[Any], rows: list[TrainRow], kept: TrainRow, budget: int
) -> tuple[float, list[torch.Tensor]]:
    """The sum of one row's losses and its gradient, from the passes that the whole step makes."""
    for parameter in parameters:
        parameter.grad = None
    total = sum(
        step._backward(only(b, kept), None, 1.0) for b in micro_batches(rows, budget, "tokens")
    )
    return total, [parameter.grad.clone() for parameter in parameters]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_rows_loss_and_gradient_do_not_depend_on_what_shares_its_pass(kind: str) -> None:
    with steps(kind) as (step, parameters):
        for kept in ROWS:
            alone, gradient = losses_of_a_row(step, parameters, [kept], kept, 1)
            assert alone > 1
            assert max(float(g.abs().max()) for g in gradient) > 1e-2
            for rows in (ROWS, ROWS[::-1], [ROWS[-1], kept, ROWS[0]]):
                for budget in (1, 40, 97, 10_000):
                    rows_once = list({id(r): r for r in rows}.values())
                    got, seen = losses_of_a_row(step, parameters, rows_once, kept, budget)
                    assert got == pytest.approx(alone, rel=1e-5)
                    # As a whole tensor: single elements cancel, and what is left of them depends on the processor.
                    for part, whole in zip(seen, gradient, strict=True):
                        assert float((part - whole).norm()) <= 1e-5 * float(whole.norm())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_rows_loss_is_the_models_own_on_that_row_alone(kind: str) -> None:
    with steps(kind) as (step, parameters):
        for kept in ROWS:
            got, _ = losses_of_a_row(step, parameters, ROWS, kept, 97)
            with torch.no_grad():
                logits = step._module(input_ids=torch.from_numpy(kept.inputs)[None]).logits[0]
            logs = torch.log_softmax(logits[kept.positions], -1)
            wanted = -logs[torch.arange(len(kept.labels)), torch.from_numpy(kept.labels)].sum()
            assert got == pytest.approx(float(wanted), rel=1e-5)


def gradient_of_a_step(kind: str, **config: Any) -> tuple[float, torch.Tensor]:
    with steps(kind, **config) as (step, parameters):
        loss = step(ROWS, 0)
        return loss, torch.cat([p.grad.flatten() for p in parameters])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bfloat16_on_a_cpu_is_float32_with_fewer_digits(kind: str) -> None:
    loss, gradient = gradient_of_a_step(kind)
    rough, direction = gradient_of_a_step(kind, bf16=True)
    assert rough == pytest.approx(loss, rel=1e-2)
    assert rough != loss
    # Processors differ in how they round products of bfloat16: 0.9899 is the lowest that was seen.
    assert float(torch.cosine_similarity(gradient, direction, dim=0)) > 0.98


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: not enough memory", None])
def test_a_pass_that_runs_out_of_memory_on_its_way_back_leaves_no_trace(
    words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, gradient = gradient_of_a_step("llama", micro_batch_tokens=64)
    calls: list[int] = []

    from nfilter_hf.lora import step as lora_step

    real = lora_step.backward_weighted

    def crowded(*args: Any) -> Any:
        done = real(*args)
        calls.append(len(args[2]))
        if len(calls) == 2:
            raise RuntimeError(words) if words else torch.OutOfMemoryError("full")
        return done

    monkeypatch.setattr(lora_step, "backward_weighted", crowded)
    again, same = gradient_of_a_step("llama", micro_batch_tokens=64)
    assert again == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(same, gradient, rtol=0, atol=2e-6)
    assert sum(calls) > sum(len(r.labels) for r in ROWS)


def test_another_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("nfilter_hf.lora.step.backward_weighted", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        gradient_of_a_step("llama")


def test_a_pass_is_smaller_on_a_cpu_unless_the_recipe_says() -> None:
    assert pass_tokens(LoraSettings(), "cpu") == 1024
    assert pass_tokens(LoraSettings(), "cuda") == 4096
    assert pass_tokens(LoraSettings(micro_batch_tokens=77), "cpu") == 77
