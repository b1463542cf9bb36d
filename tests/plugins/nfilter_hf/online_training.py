"""A small training with an online loss: the samples, the loss, the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lent_llama import VOCABULARY, Lender, llama

from nfilter import TokenSample, TrainingResult
from nfilter.testing import FakeContext
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer

SCORE = "loss.reference"


def sample(index: int, *, scored: bool = True) -> TokenSample:
    """Uneven weights, some of them 0, and a reference loss at every response token."""
    rng = np.random.default_rng(index)
    length = int(rng.integers(6, 20))
    response = np.arange(length) >= length // 2
    weights = rng.choice([0, 0.25, 1, 3], length) * response
    weights[-1] = 0.5
    scores = {SCORE: np.where(response, rng.gamma(2.0, 2.0, length), np.nan).astype(np.float32)}
    return TokenSample(
        id=str(index),
        ids=rng.integers(0, VOCABULARY, length).astype(np.int64),
        response=response,
        turn=np.zeros(length, dtype=np.int16),
        spans=np.zeros((length, 2), dtype=np.int32),
        weights=weights.astype(np.float32),
        scores=scores if scored else {},
    )


SAMPLES = [sample(i) for i in range(8)]


def made(weigh: Callable[..., Any], mean_over: str = "given") -> Any:
    """A loss whose weights are those that ``weigh(n)`` gives."""
    return SimpleNamespace(
        name="made",
        mean_over=mean_over,
        stats=lambda logits, labels: {"zero": logits[:, 0] * 0},
        weigh=lambda stats, cached, step: weigh(len(stats["zero"])),
    )


def train(
    out: Path,
    loss: Any,
    *,
    samples: list[TokenSample] = SAMPLES,
    module: Any = None,
    ctx: FakeContext | None = None,
    **config: Any,
) -> TrainingResult:
    settings = {"rank": 4, "dropout": 0.0, "lr": 1e-2, "batch_size": 8, **config}
    trainer = LoraTrainer(LoraSettings.model_validate(settings))
    return trainer.train(samples, Lender(module or llama()), out, ctx or FakeContext(loss=loss))
