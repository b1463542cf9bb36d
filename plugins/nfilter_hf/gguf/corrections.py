"""Settings of GGUF files that transformers ignores: pre-tokenization, special tokens, and RoPE scaling.

Versions of transformers differ in the settings that they read; an ignored setting silently changes tokens or logits. They are
set from the file here, or the file is rejected.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nfilter import ModelError
from nfilter_hf.gguf.header import Header

_REMEDY: Final = "give the model's folder or hub id with *.safetensors"
_TAIL: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3: Final = _WORDS + r"|\p{N}{1,3}" + _TAIL
_QWEN2: Final = _WORDS + r"|\p{N}" + _TAIL
# Pre-tokenization of byte-level vocabularies, by tokenizer.ggml.pre (llama.cpp, llm_tokenizer_bpe).
_SPLITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}  # fmt: skip
_DIGITS_ALONE: Final = ("codeshell", "command-r", "exaone", "refact", "smollm", "starcoder")
_AS_GPT2: Final = (
    "default",
    "gpt-2",
    "gigachat",
    "jais",
    "mellum",
    "mpt",
    "olmo",
    "phi-2",
    "roberta-bpe",
    "trillion",
)
_SPECIAL: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_SCALING: Final = ("type", "factor", "original_context_length", "finetuned")
# Architectures for which each weight of the file is one weight of the transformers model.
_COUNTED: Final = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
_FACTORS: Final = "rope_freqs.weight"
# Llama 3.1 and later, with factor 8 or 32.
_LLAMA3_ROPE: Final = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def correct_tokenizer(tokenizer: Any, header: Header, file: Path) -> None:
    """Set pre-tokenization and special tokens from the file.

    Raises:
        ModelError: if the pre-tokenization is unknown.
    """
    from tokenizers import Regex, pre_tokenizers

    for role, key in _SPECIAL.items():
        number = header.values.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and getattr(tokenizer, f"{role}_token_id") != number:
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(number))
    way = header.values.get("tokenizer.ggml.pre", "default")
    if header.values.get("tokenizer.ggml.model") != "gpt2" or way in _known_to_transformers():
        return
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend = tokenizer.backend_tokenizer
    if way in _DIGITS_ALONE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    elif way in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[way]), behavior="isolated")
        joined = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, joined])
    elif way in _AS_GPT2:
        backend.pre_tokenizer = plain
    else:
        raise ModelError(
            f"{file}: the pre-tokenization {way!r} of its vocabulary (tokenizer.ggml.pre) is not supported, and its "
            f"tokens would be wrong: {_REMEDY}"
        )


def _known_to_transformers() -> Mapping[str, str]:
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping
    except ImportError:
        return {}
    splits: Mapping[str, str] = getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {})
    return splits


def correct_settings(settings: Any, header: Header, file: Path) -> None:
    """Set RoPE scaling from the file.

    Raises:
        ModelError: if its type is unknown.
    """
    kinds = settings.rope_parameters if getattr(settings, "rope_parameters", None) else {}
    # If each kind of layer has its own parameters, those of full attention are scaled.
    rope = kinds if "rope_type" in kinds else kinds.get("full_attention")
    if not isinstance(rope, dict) or rope.get("rope_type") != "default":
        return
    keys = {
        key.partition("rope.scaling.")[2]: value
        for key, value in header.values.items()
        if key.startswith(f"{header.architecture}.rope.scaling.")
    }
    named = str(keys.get("type", "none"))
    if _FACTORS in header.tensors:
        rope.update(_of_factors(rope, _floats(header, _FACTORS, file), file))
    elif named != "none":
        rope.update(_of_keys(named, keys, file))
    elif any(name.startswith("rope_factors") for name in header.tensors):
        raise _unknown(file, "rope_factors")


def refuse_left_out(module: Any, header: Header, file: Path) -> None:
    """Check that the loaded ``module`` has as many weights as the file.

    Raises:
        ModelError: if they differ, e.g. because the file has biases that the module lacks.
    """
    if header.architecture not in _COUNTED:
        return
    in_file = sum(
        math.prod(tensor.shape)
        for name, tensor in header.tensors.items()
        if not name.startswith("rope_")
    )
    loaded = sum(parameter.numel() for parameter in module.parameters())
    if in_file != loaded:
        raise ModelError(
            f"{file} has {in_file:,} weights, and the {module.config.model_type} model of transformers has {loaded:,}: they "
            f"differ; {_REMEDY}"
        )


def _of_keys(named: str, keys: Mapping[str, Any], file: Path) -> dict[str, Any]:
    factor, length = keys.get("factor", 1.0), keys.get("original_context_length")
    needs = named == "yarn" and not length
    if named not in ("linear", "yarn") or needs or not set(keys) <= set(_SCALING):
        raise _unknown(file, f"rope.scaling.type {named}")
    scaling = {"rope_type": named, "factor": float(factor)}
    if length:
        scaling["original_max_position_embeddings"] = int(length)
    return scaling


def _of_factors(rope: Mapping[str, Any], given: list[float], file: Path) -> dict[str, Any]:
    """Llama 3's RoPE scaling if these are its frequency divisors; empty if all are 1."""
    most = max(given)
    if most == 1:
        return {}
    low, high = (_LLAMA3_ROPE["original_max_position_embeddings"] / end for end in (1.0, 4.0))  # type: ignore[operator]
    for index, value in enumerate(given):
        length = 2 * math.pi * rope["rope_theta"] ** (index / len(given))
        share = min(1.0, max(0.0, (low / length - 1.0) / (low / high - 1.0)))
        if not math.isclose(value, 1 / ((1 - share) / most + share), rel_tol=1e-3):
            raise _unknown(file, _FACTORS)
    return {**_LLAMA3_ROPE, "factor": most}


def _floats(header: Header, name: str, file: Path) -> list[float]:
    tensor = header.tensors[name]
    if tensor.kind != 0 or len(tensor.shape) != 1:
        raise _unknown(file, name)
    with file.open("rb") as data:
        data.seek(header.data_start + tensor.offset)
        return list(struct.unpack(f"<{tensor.shape[0]}f", data.read(4 * tensor.shape[0])))


def _unknown(file: Path, what: str) -> ModelError:
    return ModelError(
        f"{file}: its RoPE scaling ({what}) is not supported, and its answers would be "
        f"wrong: {_REMEDY}"
    )
