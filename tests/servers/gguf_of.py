"""A checkpoint of the Llama family with a byte-level BPE tokenizer, written as a GGUF file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_CONTROL, _NORMAL = 3, 1


def write(
    model: Path,
    file: Path,
    *,
    kind: str = "F32",
    pre: str = "qwen2",
    more: dict[str, str | int | float] | None = None,
    tensors: dict[str, Any] | None = None,
    **ids: int,
) -> None:
    """Write the checkpoint in the folder ``model`` to ``file``; weights, tokenizer and chat template are in it.

    Matrices are written as ``kind`` (F32, F16, Q8_0), where their rows are whole blocks of it. ``pre`` says how text is split
    (it splits a little more coarsely than tiny's own; where no merge crosses a split, that changes no token), ``ids`` are
    those of ``bos``, ``eos`` and ``pad``, by default config.json's; ``more`` are keys to add, ``tensors``
    tensors.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    out = GGUFWriter(str(file), "llama")
    out.add_name(model.name)
    out.add_file_type(LlamaFileType.ALL_F32)
    out.add_context_length(config["max_position_embeddings"])
    out.add_vocab_size(config["vocab_size"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_rope_dimension_count(config["head_dim"])
    out.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _vocabulary(out, model, config, pre, ids)
    for key, value in (more or {}).items():
        if isinstance(value, str):
            out.add_string(key, value)
        elif isinstance(value, int):
            out.add_uint32(key, value)
        else:
            out.add_float32(key, value)
    for name, values in (tensors or {}).items():
        out.add_tensor(name, values)
    as_written = GGMLQuantizationType[kind]
    for name, values in load_file(model / "model.safetensors").items():
        called, plain = _tensor(name, values.astype(np.float32), config)
        if plain.ndim == 2 and plain.shape[1] % 32 == 0 and kind != "F32":
            out.add_tensor(called, quantize(plain, as_written), raw_dtype=as_written)
        else:
            out.add_tensor(called, plain)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _tensor(name: str, values: Any, config: dict[str, Any]) -> tuple[str, Any]:
    """The name and the layout that llama.cpp has for a tensor."""
    stem = name.removesuffix(".weight")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    plain = _NAMES[layer[2] if layer else stem]
    if plain in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if plain == "attn_q" else "num_key_value_heads"]
        # Rotary pairs stand side by side there, and half a head apart here.
        rows, columns = values.shape
        halves = values.reshape(heads, 2, rows // heads // 2, columns)
        values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
    return f"blk.{layer[1]}.{plain}.weight" if layer else f"{plain}.weight", values


def _vocabulary(
    out: Any, model: Path, config: dict[str, Any], pre: str, special: dict[str, int]
) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    by_id = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    control = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    by_id.update(control)
    ids = range(config["vocab_size"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list([by_id[number] for number in ids])
    out.add_token_types([_CONTROL if number in control else _NORMAL for number in ids])
    out.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    for kind in ("bos", "eos", "pad"):
        getattr(out, f"add_{kind}_token_id")(special.get(kind, config[f"{kind}_token_id"]))
    out.add_add_bos_token(False)  # the template writes it
    template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    # These marks say which tokens train, which no server knows or needs.
    out.add_chat_template(re.sub(r"\{% (end)?generation %\}", "", template))
