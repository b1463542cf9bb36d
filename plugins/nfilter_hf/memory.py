"""Estimate the memory of a LoRA training from a model's config.json or GGUF header, without loading or downloading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter import ModelError, Site
from nfilter_hf.checks import read_json
from nfilter_hf.config import HFConfig, locate
from nfilter_hf.gguf.header import Header, read_header
from nfilter_hf.lora.adapter import DEFAULT_TARGETS
from nfilter_hf.lora.settings import pass_tokens
from nfilter_hf.loss import chunk_size

if TYPE_CHECKING:
    from nfilter_hf.lora.settings import LoraSettings

_FOUR_BIT = 0.5 + 4 / 64
"""Bytes per 4-bit parameter: half a byte, and a float32 scale per block of 64."""


_PROCESS = 0.4 * 2**30
"""Bytes of a Python process with torch, transformers and peft imported (measured, x86-64 Linux, torch 2.13)."""

_UNUSED = 0.15
"""Share by which the resident memory of a CPU training exceeds the sum of the parts (measured as 0.14 to 0.15 with 135
million parameters): unused blocks of the allocator."""


@dataclass(frozen=True, slots=True)
class _Family:
    """The differences of an architecture from Llama: biases, norms per layer, norms of queries and keys."""

    qkv_bias: bool = False
    norms: int = 2
    qk_norm: bool = False
    tied: bool = False
    fused: bool = False


_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(),
    "mistral": _Family(),
    "granite": _Family(),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qk_norm=True),
    "gemma": _Family(tied=True),
    "gemma2": _Family(norms=4, tied=True),
    "gemma3_text": _Family(norms=4, qk_norm=True, tied=True),
    "phi3": _Family(fused=True),
}
_MODEL_TYPES: Mapping[str, str] = {"gemma3": "gemma3_text"}
"""The transformers names of architectures with another name in llama.cpp."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a block: its name, its input size and its output size."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a decoder from its config.json, with exact parameter counts."""

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    attention: int
    linears: tuple[Linear, ...]
    small: int
    """Parameters of all norms and biases."""
    tied: bool

    @property
    def linear_parameters(self) -> int:
        """Weights of the blocks' linear layers, which 4-bit loading quantises."""
        return self.layers * sum(linear.inputs * linear.outputs for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters, a tied output head counted once."""
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.linear_parameters + ends + self.small

    def targets(self, names: Any) -> Iterator[Linear]:
        """Yield the linear layers of one block that an adapter with these ``target_modules`` adapts."""
        if names is None:
            names = [linear.name for linear in self.linears if linear.name in DEFAULT_TARGETS]
        for linear in self.linears:
            if names in ("all-linear", []) or linear.name in {n.rpartition(".")[2] for n in names}:
                yield linear

    def lora_parameters(self, rank: int, names: Any) -> int:
        """Return the number of the adapter's parameters: rank * (inputs + outputs) per adapted layer."""
        per_block = sum(rank * (linear.inputs + linear.outputs) for linear in self.targets(names))
        return self.layers * per_block


def sizes_of(config: Mapping[str, Any]) -> Sizes | None:
    """Return the sizes of the model of this config.json, or None for an unknown architecture."""
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    try:
        hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        vocabulary = int(config["vocab_size"])
        groups = int(config.get("num_key_value_heads") or heads)
        width = int(config.get("head_dim") or hidden // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    queries, keys = heads * width, groups * width
    linears: tuple[Linear, ...]
    if family.fused:
        linears = (
            Linear("qkv_proj", hidden, queries + 2 * keys),
            Linear("o_proj", queries, hidden),
            Linear("gate_up_proj", hidden, 2 * inner),
            Linear("down_proj", inner, hidden),
        )
    else:
        linears = (
            Linear("q_proj", hidden, queries),
            Linear("k_proj", hidden, keys),
            Linear("v_proj", hidden, keys),
            Linear("o_proj", queries, hidden),
            Linear("gate_proj", hidden, inner),
            Linear("up_proj", hidden, inner),
            Linear("down_proj", inner, hidden),
        )
    small = family.norms * hidden + (2 * width if family.qk_norm else 0)
    if family.qkv_bias:
        small += queries + 2 * keys
    elif config.get("attention_bias"):
        small += queries + 2 * keys + hidden
    if config.get("mlp_bias"):
        small += 2 * inner + hidden
    return Sizes(
        layers=layers,
        hidden=hidden,
        inner=inner,
        vocabulary=vocabulary,
        attention=2 * (queries + keys),
        linears=linears,
        small=layers * small + hidden,
        tied=bool(config.get("tie_word_embeddings", family.tied)),
    )


def training_memory(config: LoraSettings, model_config: Any, site: Site) -> dict[str, float]:
    """Return bytes by part and in ``total``; empty if the model's config.json is missing or unknown.

    ``weights`` and ``adapter`` follow from the shapes; ``adapter`` has two copies, for undoing a bad step. ``optimizer`` are
    AdamW's two moments. ``activations`` is an estimate: one forward pass of ``micro_batch_tokens`` tokens and two copies of the
    logits of one chunk. On a CPU, ``process`` is the memory of Python and its libraries, ``unused`` that of the allocator.
    """
    settings = model_settings(model_config, site)
    sizes = sizes_of(settings) if settings is not None else None
    if sizes is None:
        return {}
    width = _bytes_per_value(model_config)
    weights: float = sizes.parameters * width
    if model_config.load_in_4bit:
        # Training converts parameters that are not quantised to float32.
        rest = sizes.parameters - sizes.linear_parameters
        weights = sizes.linear_parameters * _FOUR_BIT + rest * 4
    adapter = sizes.lora_parameters(config.rank, config.target_modules) * 4
    parts: dict[str, float] = {
        "weights": weights,
        "adapter": 2 * adapter,
        "optimizer": 2 * adapter,
        "gradients": adapter,
        "activations": _activation_bytes(config, sizes, width, _device(model_config)),
    }
    if _device(model_config) == "cpu":
        parts["process"] = _PROCESS
        parts["unused"] = _UNUSED * sum(parts.values())
    return {**parts, "total": sum(parts.values())}


def _activation_bytes(config: LoraSettings, sizes: Sizes, width: int, device: str) -> float:
    # A block stores for the backward pass: the float32 inputs of its norms, queries to the attention output, the three
    # inner states of the MLP, and for each adapted layer the low-rank states, its input and the dropout mask: one byte per
    # value in nfilter's own pass, two in bfloat16, else a number and the dropped input.
    tokens = pass_tokens(config, device)
    dropped = 0
    if config.dropout:
        mixed = config.bf16 is True or (config.bf16 == "auto" and device == "cuda")
        light = not mixed and (width == 4 or device == "cpu")
        dropped = (1 if width == 4 else 2) if light else 2 * width
    adapted = sum(
        (linear.inputs * (width + dropped) + width * config.rank)
        for linear in sizes.targets(config.target_modules)
    )
    block = width * (sizes.attention + 3 * sizes.inner) + adapted + 4 * 3 * sizes.hidden
    boundary = width * sizes.hidden
    stored = (
        sizes.layers * boundary + block if config.gradient_checkpointing else sizes.layers * block
    )
    predictions = min(tokens, chunk_size(sizes.vocabulary, device))
    return float(tokens * stored + 3 * 4 * predictions * sizes.vocabulary)


def _bytes_per_value(model_config: HFConfig) -> int:
    match model_config.dtype:
        case "float32":
            return 4
        case "bfloat16" | "float16":
            return 2
        case _:
            return 2 if _device(model_config) == "cuda" else 4


def _device(model_config: HFConfig) -> str:
    # Without torch: a CPU if no other device is visible.
    if model_config.device == "auto":
        return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return model_config.device


def model_settings(model_config: Any, site: Site) -> Mapping[str, Any] | None:
    """Return the content of the model's config.json; None if it is not on this machine."""
    if not isinstance(model_config, HFConfig):
        return None
    place = locate(model_config.model, site)
    name = place.file or "config.json"
    if place.folder is not None:
        return _read_settings(place.folder / name)
    if place.hub_id is None or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place.hub_id, name, revision=model_config.revision)
    return _read_settings(Path(cached)) if isinstance(cached, str) else None


def _read_settings(file: Path) -> Mapping[str, Any] | None:
    if file.name == "config.json":
        return read_json(file)
    try:
        return _like_config(read_header(file))
    except ModelError:
        return None


def _like_config(header: Header) -> dict[str, Any]:
    """The sizes of a GGUF header in the form of a config.json."""
    architecture = header.architecture
    vocabulary = header.values.get("tokenizer.ggml.tokens")
    return {
        "model_type": _MODEL_TYPES.get(architecture, architecture),
        "hidden_size": header.of_model("embedding_length"),
        "intermediate_size": header.of_model("feed_forward_length"),
        "num_attention_heads": header.of_model("attention.head_count"),
        "num_key_value_heads": header.of_model("attention.head_count_kv"),
        "num_hidden_layers": header.of_model("block_count"),
        "head_dim": header.of_model("attention.key_length"),
        "vocab_size": header.of_model("vocab_size") or vocabulary,
        "attention_bias": "blk.0.attn_output.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
