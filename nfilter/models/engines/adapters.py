"""What an inference engine applies of a LoRA adapter in PEFT's format; an adapter with more than that is refused before a call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nfilter.api.adapter_files import adapter_files, adapter_tensors
from nfilter.api.calls import ModelRef
from nfilter.api.errors import ModelError
from nfilter.models.engines.interface import EngineAdapter

_BEYOND: Final[Mapping[str, str]] = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules",
    "trainable_token_indices": "embeddings of single tokens",
    "lora_bias": "biases",
    "layer_replication": "repeated layers",
    "use_bdlora": "block-diagonal matrices (BD-LoRA)",
    "use_qalora": "pooled inputs (QALoRA)",
    "monteclora_config": "random draws (MonteCLoRA)",
    "arrow_config": "a choice among adapters (Arrow)",
    "kasa_config": "singular values (KaSA)",
    "use_rslora": "rank-stabilised scaling",
    "rank_pattern": "a rank of its own for some modules",
    "alpha_pattern": "a scaling of its own for some modules",
}
"""Keys of adapter_config.json that, if they are set, change what PEFT computes, in words."""

_PLAIN_INIT: Final = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Values of ``init_lora_weights`` that only choose the first values of the matrices. Others, such as ``pissa``, change the base too."""

_MATRICES: Final = (
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_embedding_A",
    ".lora_embedding_B",
)
_PREFIX: Final = "base_model.model."


@dataclass(frozen=True, slots=True)
class AdapterSupport:
    """What an engine applies of an adapter, beyond two matrices per layer, scaled by ``lora_alpha / r``.

    Attributes:
        applied: Keys of adapter_config.json that it applies as PEFT does; see ``_BEYOND`` for those that matter.
        highest_rank: The highest rank of a layer; None for any.
        unapplied_layers: Given the names of the layers with matrices, e.g. ``model.layers.0.self_attn.q_proj``, returns in words
            which of them it does not apply; None if it applies all.
    """

    applied: frozenset[str] = frozenset()
    highest_rank: int | None = None
    unapplied_layers: Callable[[Collection[str]], str | None] = lambda _: None


def usable_adapter(ref: ModelRef, label: str, support: AdapterSupport, other: str) -> EngineAdapter:
    """Return the adapter of a reference. In messages, ``label`` names the engine, and ``other`` a backend that applies any adapter.

    Raises:
        ModelError: if it is no LoRA, its files are damaged, or the engine does not apply it as PEFT does.
    """
    folder, config = adapter_files(ref)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    rank = max((each for each in ranks if isinstance(each, int)), default=0)
    if config.get("peft_type") != "LORA" or rank < 1:
        raise ModelError(f"the adapter in {folder} is not a LoRA; give one that a run has trained")
    unapplied = _unapplied(config, adapter_tensors(folder), support)
    if unapplied is not None:
        raise ModelError(
            f"{label} does not apply the adapter in {folder}: it has {unapplied}; set use: {other} for this model"
        )
    if support.highest_rank is not None and rank > support.highest_rank:
        raise ModelError(
            f"the adapter in {folder} has rank {rank}, and {label} applies ranks up to {support.highest_rank}; set use: {other} for this model"
        )
    return EngineAdapter(ref.digest, folder.resolve(), rank)


def _unapplied(
    config: Mapping[str, Any], tensors: Collection[str], support: AdapterSupport
) -> str | None:
    """Return in words the first part of an adapter that the engine does not apply; None if it applies all."""
    for key, words in _BEYOND.items():
        if config.get(key) and key not in support.applied:
            return words
    if config.get("bias", "none") != "none":
        return "biases"
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _PLAIN_INIT:
        return f"a changed base (init_lora_weights: {init})"
    layers = set()
    for name in tensors:
        end = next((each for each in _MATRICES if name.endswith(each)), None)
        if end is None:
            return f"the tensor {name}"
        layers.add(name.removesuffix(end).removeprefix(_PREFIX))
    return support.unapplied_layers(layers)
