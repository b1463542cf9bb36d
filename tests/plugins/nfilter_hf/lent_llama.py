"""A small random Llama, a model that lends it to a trainer, and samples to train it on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nfilter import TokenSample

VOCABULARY = 50


def llama(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """Random weights, large enough that no two predictions are alike."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


class Lender:
    """A model that lends the module it was given."""

    def __init__(self, module: Any, name: str = "fake") -> None:
        self.module = module
        self.name = name

    @contextmanager
    def lend(self) -> Iterator[SimpleNamespace]:
        """The module, without a tokenizer."""
        yield SimpleNamespace(module=self.module, tokenizer=None)

    def fingerprint(self) -> str:
        """Its name."""
        return self.name


def sample(index: int, *, length: int | None = None, weight: float = 1.0) -> TokenSample:
    """A random prompt and a response that counts on from it, all of one weight."""
    rng = np.random.default_rng(index)
    length = length or int(rng.integers(6, 20))
    response = np.arange(length) >= length // 2
    ids = rng.integers(0, VOCABULARY, length)
    ids[length // 2 :] = (ids[: length - length // 2] + 1) % VOCABULARY
    return TokenSample(
        id=str(index),
        ids=ids.astype(np.int64),
        response=response,
        turn=np.zeros(length, dtype=np.int16),
        spans=np.zeros((length, 2), dtype=np.int32),
        weights=(response * weight).astype(np.float32),
    )
