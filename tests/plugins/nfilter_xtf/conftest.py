"""Fixtures: hand-made token samples, small models with random weights, and a runner that behaves like the engine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nfilter import TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_hf.attention import read_attention

BIT = 4


def make(
    name: str, ids: Any, response: Any = None, weights: Any = None, **scores: Any
) -> TokenSample:
    """Make a sample; ``reasoning=[...]`` becomes the score ``xtf.reasoning``, ``loss=[...]`` the score ``loss.base``."""
    ids = np.asarray(ids, dtype=np.int64)
    n = len(ids)
    response = np.ones(n, bool) if response is None else np.asarray(response, dtype=bool)
    weight = np.ones(n) if weights is None else np.asarray(weights)
    return TokenSample(
        id=name, ids=ids, response=response, turn=np.zeros(n, np.int16), spans=np.zeros((n, 2), np.int32),
        weights=np.where(response, weight, 0).astype(np.float32),
        scores={
            "loss.base" if key == "loss" else f"xtf.{key}": np.asarray(values, np.float32)
            for key, values in scores.items()
        },
    )  # fmt: skip


class Lender:
    """A model that lends ``module`` or reads its attention, and counts both."""

    def __init__(self, module: Any, tokenizer: Any = None) -> None:
        self.lent = SimpleNamespace(module=module, tokenizer=tokenizer)
        self.loans = 0

    @contextmanager
    def lend(self) -> Iterator[Any]:
        self.loans += 1
        yield self.lent

    def attention(self, samples: Any, reduce: Any, layers: slice = slice(None)) -> Iterator[Any]:
        self.loans += 1
        yield from read_attention(self.lent.module, samples, reduce, layers)


def run_stage(stage: Any, config: Any, samples: Any, ctx: Any = None, size: int = 3) -> Any:
    """Fit on all samples, process and check each chunk as the engine does; return samples and report."""
    ctx = ctx or FakeContext()
    out, state = check_token_stage(stage, config, samples, ctx, bit=BIT, chunk=size)
    return out, state.values.get("report")


def llama(seed: int = 0, **more: Any) -> Any:
    """Return a two-layer Llama with random weights; ``more`` overrides settings."""
    settings = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **more})).eval()


@pytest.fixture
def tokens() -> Callable[..., TokenSample]:
    return make


@pytest.fixture
def lender() -> type[Lender]:
    return Lender


@pytest.fixture
def run() -> Callable[..., Any]:
    return run_stage


@pytest.fixture
def small() -> Callable[..., Any]:
    return llama


def masked_positions(samples: Any) -> list[list[int]]:
    return [np.flatnonzero(s.reasons & np.uint32(1 << BIT)).tolist() for s in samples]


@pytest.fixture
def lost() -> Callable[..., list[list[int]]]:
    """Return a function from samples to the positions that the stage under test masked in each."""
    return masked_positions
