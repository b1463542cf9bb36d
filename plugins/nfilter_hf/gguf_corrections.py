"""What transformers leaves out when it reads a GGUF file: how text is split, special tokens, and stretched positions.

Versions differ in what they read, and what is left out changes tokens or logits without a word; here it is set from the file,
or the file is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nfilter import ModelError
from nfilter_hf.gguf_header import Header

_REMEDY: Final = "give the model's folder or hub id with *.safetensors"
_TAIL: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3: Final = _WORDS + r"|\p{N}{1,3}" + _TAIL
_QWEN2: Final = _WORDS + r"|\p{N}" + _TAIL
# How the text of a byte-level vocabulary is split, by tokenizer.ggml.pre (llama.cpp, llm_tokenizer_bpe).
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
# Architectures all of whose weights have a place of their own in the model of transformers.
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
    """Split text as the file says, and take its special tokens. Raises ModelError for a way of splitting not known here."""
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
            f"{file}: its vocabulary splits text in the way of {way!r} (tokenizer.ggml.pre), which is not known here, and its "
            f"tokens would not be those of the model: {_REMEDY}"
        )


def _known_to_transformers() -> Mapping[str, str]:
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping
    except ImportError:
        return {}
    found: Mapping[str, str] = getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {})
    return found


def correct_settings(settings: Any, header: Header, file: Path) -> None:
    """Set how positions are stretched, as the file says. Raises ModelError for a way that is not known here."""
    kinds = settings.rope_parameters if getattr(settings, "rope_parameters", None) else {}
    # Where there is one for each kind of layer, those that see all of the text are stretched.
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
    """Raise ModelError where the file holds weights, such as biases, that the loaded ``module`` has no place for."""
    if header.architecture not in _COUNTED:
        return
    held = sum(
        math.prod(tensor.shape)
        for name, tensor in header.tensors.items()
        if not name.startswith("rope_")
    )
    loaded = sum(parameter.numel() for parameter in module.parameters())
    if held != loaded:
        raise ModelError(
            f"{file} holds {held:,} weights, and the {module.config.model_type} model of transformers has {loaded:,}: they are "
            f"not the same model; {_REMEDY}"
        )


def _of_keys(named: str, keys: Mapping[str, Any], file: Path) -> dict[str, Any]:
    factor, length = keys.get("factor", 1.0), keys.get("original_context_length")
    needs = named == "yarn" and not length
    if named not in ("linear", "yarn") or needs or not set(keys) <= set(_SCALING):
        raise _unknown(file, f"rope.scaling.type {named}")
    found = {"rope_type": named, "factor": float(factor)}
    if length:
        found["original_max_position_embeddings"] = int(length)
    return found


def _of_factors(rope: Mapping[str, Any], given: list[float], file: Path) -> dict[str, Any]:
    """Llama 3's way, where these are its divisors of the frequencies; nothing where all are 1."""
    most = max(given)
    if most == 1:
        return {}
    low, high = (_LLAMA3_ROPE["original_max_position_embeddings"] / end for end in (1.0, 4.0))  # type: ignore[operator]
    for place, value in enumerate(given):
        length = 2 * math.pi * rope["rope_theta"] ** (place / len(given))
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
        f"{file}: it stretches positions in a way ({what}) that is not known here, and its answers would not be those of the "
        f"model: {_REMEDY}"
    )


__all__ = ["correct_settings", "correct_tokenizer", "refuse_left_out"]
