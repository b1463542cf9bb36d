"""What vLLM applies of a LoRA adapter, and the ranks for which it has room."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from nfilter import AdapterSupport

RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's ``max_lora_rank``."""


def admitted_rank(rank: int) -> int | None:
    """Return the least ``max_lora_rank`` of vLLM that admits an adapter of ``rank``; None if none does."""
    return min((each for each in RANKS if each >= rank), default=None)


def unapplied_layers(layers: Collection[str]) -> str | None:
    """Return in words the layers that vLLM does not apply in every call; None if it applies all.

    Where it reads log-probabilities of a prompt, it applies a matrix of the output layer to one token per request only.
    """
    if any(layer.rpartition(".")[2] == "lm_head" for layer in layers):
        return "matrices for the output layer lm_head"
    return None


# vllm/lora/peft_helper.py of vLLM 0.33
SUPPORT: Final = AdapterSupport(
    applied=frozenset({"use_rslora", "rank_pattern", "alpha_pattern"}),
    highest_rank=RANKS[-1],
    unapplied_layers=unapplied_layers,
)
