"""A step's update, with gradients that are scaled for a base in float16, and what a checkpoint holds of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lent_llama import Lender, llama, sample

from nfilter.testing import FakeContext
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.choice import Choice
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_hf.lora.update import TrainingState

CHOICE = Choice(batch_size=8, epochs=1, lr=1e-2, steps=3, open=())


def states(dtype: torch.dtype) -> Any:
    """A training state around a small model, and the model, ready to train."""
    module = llama().to(dtype)
    scope = attached(module, rank=4, alpha=16, dropout=0.0, targets=None)
    return scope, LoraSettings(rank=4)


def with_gradient(state: TrainingState, value: float) -> None:
    for parameter in state.parameters:
        parameter.grad = torch.full_like(parameter, value)


def test_other_formats_have_no_scale() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        scope, config = states(dtype)
        with scope as wrapped:
            state = TrainingState(wrapped, CHOICE, config)
            assert state.scale == 1
            state.begin(1e-2)
            with_gradient(state, float("inf"))
            assert state.update(1.0) is None
            assert "scale" not in state.tensors()


def test_a_gradient_that_overflows_skips_the_step_and_halves_the_scale() -> None:
    scope, config = states(torch.float16)
    with scope as wrapped:
        state = TrainingState(wrapped, CHOICE, config)
        before = [parameter.detach().clone() for parameter in state.parameters]
        scale = state.scale
        assert scale == 2**16
        state.begin(1e-2)
        with_gradient(state, float("inf"))
        assert state.update(1.0) is not None
        assert state.scale == scale / 2
        for parameter, was in zip(state.parameters, before, strict=True):
            torch.testing.assert_close(parameter, was, rtol=0, atol=0)
        # A loss that is not finite is no matter of scale, nor is what overflows without one.
        with_gradient(state, 1.0)
        state.begin(1e-2)
        with_gradient(state, 1.0)
        assert state.update(float("nan")) is None


def test_a_scaled_gradient_makes_the_step_of_a_plain_one() -> None:
    steps = []
    for dtype in (torch.float32, torch.float16):
        scope, config = states(dtype)
        torch.manual_seed(0)
        with scope as wrapped:
            state = TrainingState(wrapped, CHOICE, config)
            before = [parameter.detach().clone() for parameter in state.parameters]
            state.begin(1e-2)
            with_gradient(state, 0.25 * state.scale)
            norm = state.update(1.0)
            size = sum(parameter.numel() for parameter in state.parameters)
            assert norm == pytest.approx(0.25 * size**0.5, rel=1e-4)
            steps.append(
                [p.detach() - was for p, was in zip(state.parameters, before, strict=True)]
            )
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        assert float(one.abs().max()) > 1e-3


def test_the_scale_is_kept_and_put_back() -> None:
    scope, config = states(torch.float16)
    with scope as wrapped:
        state = TrainingState(wrapped, CHOICE, config)
        for value in (float("inf"), 1.0):
            state.begin(1e-2)
            with_gradient(state, value)
            state.update(1.0)
        kept = state.tensors()
        assert kept["scale"].tolist() == [2**15, 1]
        again = TrainingState(wrapped, CHOICE, config)
        again.restore(kept)
        assert again.scale == 2**15
        assert torch.equal(again.tensors()["scale"], kept["scale"])


def test_a_base_in_float16_is_trained_as_one_in_float32(tmp_path: Path) -> None:
    settings = LoraSettings(rank=4, dropout=0.0, lr=2e-3, batch_size=8, epochs=2, bf16=False)
    losses = []
    for dtype in (torch.float32, torch.float16):
        result = LoraTrainer(settings).train(
            [sample(i) for i in range(20)], Lender(llama().to(dtype)), tmp_path / str(dtype), FakeContext()
        )  # fmt: skip
        losses.append(result.losses)
    assert losses[1] == pytest.approx(losses[0], abs=5e-2)
    assert losses[1][-1] < losses[1][0]
