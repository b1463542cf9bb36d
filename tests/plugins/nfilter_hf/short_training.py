"""Short trainings of the random Llama, and their adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lent_llama import Lender, llama

from nfilter import ModelRef, TokenSample, TrainingResult
from nfilter.testing import FakeContext
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer


def train(
    samples: list[TokenSample],
    out: Path,
    module: Any = None,
    *,
    seed: int = 0,
    start: ModelRef | None = None,
    ctx: FakeContext | None = None,
    **config: Any,
) -> TrainingResult:
    settings = {
        "model": "student",
        "rank": 4,
        "dropout": 0.0,
        "lr": 1e-2,
        "batch_size": 8,
        "epochs": 2,
        **config,
    }
    trainer = LoraTrainer(LoraSettings.model_validate(settings))
    return trainer.train(
        samples, Lender(module or llama()), out, ctx or FakeContext(seed=seed), start
    )


def adapter(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "adapter_model.safetensors")


def assert_same_adapter(one: Path, other: Path, atol: float) -> None:
    left, right = adapter(one), adapter(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=atol)
