"""``hf.lora`` if numbers are not finite or memory runs out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lent_llama import llama, sample
from short_training import assert_same_adapter, train

from nfilter import ModelError
from nfilter.testing import FakeContext


def test_a_loss_that_breaks_leaves_the_last_good_adapter(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(16)]
    good = train(samples, tmp_path / "good", max_steps=2, schedule="constant", warmup=0)
    ctx = FakeContext()
    module = llama()
    calls = 0

    def poison(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        # Two calls check the head, then one comes a step: the fourth step breaks.
        return output * float("nan") if calls == 6 else output

    module.model.norm.register_forward_hook(poison)
    options = {"max_steps": 4, "schedule": "constant", "warmup": 0}
    result = train(samples, tmp_path / "bad", module, ctx=ctx, **options)
    assert result.steps == 2
    assert result.losses == good.losses
    assert_same_adapter(tmp_path / "bad", tmp_path / "good", atol=0)
    (warning,) = (
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    )
    assert "not finite at step 4" in warning
    assert "Lower train.lr" in warning
    assert json.loads((tmp_path / "bad" / "training.json").read_text())["stopped"] is not None


def test_a_base_that_is_broken_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    module = llama()
    with torch.no_grad():
        module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"not finite at step 1.*lower train\.lr"):
        train([sample(0)], tmp_path, module)
    assert not (tmp_path / "adapter_model.safetensors").exists()
    assert not hasattr(module, "peft_config")


@pytest.mark.types("lower train.lr (now «»), set train.max_grad_norm")
def test_an_absurd_learning_rate_ends_in_finite_weights_or_an_error(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(16)]
    with pytest.raises(ModelError, match="no step before it was finite"):
        train(samples, tmp_path, lr=1e38, schedule="constant", warmup=0)
    train(samples, tmp_path, lr=1e-3, schedule="constant", warmup=0, max_grad_norm=1.0, max_steps=2)


@pytest.mark.types("set train.micro_batch_tokens: «»")
def test_out_of_memory_halves_the_forward_pass_and_goes_on(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(8)]
    train(samples, tmp_path / "plain", max_steps=1)
    module, ctx = llama(), FakeContext()
    sizes: list[int] = []

    def crowded(_: Any, args: Any, kwargs: Any) -> None:
        if module.training:
            sizes.append(kwargs["input_ids"].numel())
            if len(sizes) == 2:  # the first pass has left its gradient behind
                raise torch.OutOfMemoryError("crowded")

    module.base_model.register_forward_pre_hook(crowded, with_kwargs=True)
    train(samples, tmp_path / "small", module, ctx=ctx, max_steps=1, micro_batch_tokens=64)
    assert_same_adapter(tmp_path / "plain", tmp_path / "small", atol=1e-6)
    assert max(sizes[:2]) > 32 >= max(sizes[2:])
    (warning,) = (
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    )
    assert warning.endswith("set train.micro_batch_tokens: 32")
    ctx = FakeContext()
    train(samples, tmp_path / "set", ctx=ctx, max_steps=1, micro_batch_tokens=32)
    assert not [
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    ]


@pytest.mark.types("set train.gradient_checkpointing: true")
def test_out_of_memory_with_one_sample_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    module = llama()

    def full(_: Any, args: Any, kwargs: Any) -> None:
        if module.training:
            raise torch.OutOfMemoryError("full")

    module.base_model.register_forward_pre_hook(full, with_kwargs=True)
    with pytest.raises(
        ModelError, match=r"gradient_checkpointing: true, a smaller encode\.max_length"
    ):
        train([sample(i, length=12) for i in range(4)], tmp_path, module)
    module = llama()

    def longer(_: Any, args: Any, kwargs: Any) -> None:
        kept = module.training and not module.is_gradient_checkpointing
        if kept and kwargs["input_ids"].shape[1] > 8:
            raise torch.OutOfMemoryError("full")

    module.base_model.register_forward_pre_hook(longer, with_kwargs=True)
    train([sample(i, length=8) for i in range(4)], tmp_path / "shorter", module)
    long = [sample(i, length=12) for i in range(4)]
    train(long, tmp_path / "checkpointed", module, gradient_checkpointing=True)


@pytest.mark.types("training stopped early: «»; the adapter is that of step")
def test_a_lower_rate_or_a_longer_warmup_goes_on(tmp_path: Path) -> None:
    """A model that breaks where its adapter has grown too large."""
    samples = [sample(i) for i in range(32)]

    def run(name: str, **more: Any) -> list[str]:
        module, ctx = llama(), FakeContext()

        def breaks(_: Any, args: Any, output: Any) -> Any:
            grown = [p.abs().max() for n, p in module.named_parameters() if "lora_B" in n]
            return (output[0] * torch.nan, *output[1:]) if grown and max(grown) > 0.025 else output

        module.base_model.norm.register_forward_hook(
            lambda m, a, out: out * torch.nan if breaks(m, a, (out,))[0].isnan().any() else out
        )
        train(samples, tmp_path / name, module, ctx=ctx, schedule="constant", max_steps=4, **more)
        warned = [text for kind, text in ctx.log.lines if kind == "warning"]
        return [text for text in warned if "only 4 optimiser steps" not in text]

    (warned,) = run("high", lr=1e-2, warmup=0)
    assert "Lower train.lr (now 0.01) or raise train.warmup" in warned
    assert run("lower", lr=1e-4, warmup=0) == []
    assert run("warm", lr=1e-2, warmup=0.99) == []
