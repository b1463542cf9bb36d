"""What training changes about a lent base for its duration, and gives back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def seeded(module: Any, seed: int) -> Iterator[None]:
    """Seed torch's global generators, which the adapter's first values and dropout come from; restored on exit."""
    import torch

    device = next(module.parameters()).device
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


@contextmanager
def rehearsed(module: Any) -> Iterator[None]:
    """What runs inside draws the random numbers that what follows will draw again: the same dropout."""
    import torch

    device = next(module.parameters()).device
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


@contextmanager
def quantised_ready(module: Any) -> Iterator[None]:
    """Make a 4- or 8-bit base fit to train on, and give it back as it was; other bases are left alone."""
    if not (
        getattr(module, "is_loaded_in_4bit", False) or getattr(module, "is_loaded_in_8bit", False)
    ):
        yield
        return
    from peft import prepare_model_for_kbit_training

    # Preparing raises norms, embeddings and head to float32 and freezes everything.
    before = [(p, p.dtype, p.requires_grad) for p in module.parameters()]
    prepare_model_for_kbit_training(module, use_gradient_checkpointing=False)
    try:
        yield
    finally:
        for parameter, dtype, trainable in before:
            if parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(trainable)


@contextmanager
def checkpointing(module: Any, *, on: bool) -> Iterator[None]:
    """Keep the activations of layer boundaries only, and compute the others again on the way back."""
    if not on:
        yield
        return
    # transformers 5 renames these methods in mid-series.
    enable = getattr(module, "activation_checkpointing_enable", None)
    if enable is not None:
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
        disable = module.activation_checkpointing_disable
    else:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        disable = module.gradient_checkpointing_disable
    try:
        yield
    finally:
        disable()
