"""A LoRA adapter around a lent module: put on, loaded, saved in PEFT format, taken off again."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nfilter import ModelError, ModelRef, did_you_mean
from nfilter_hf.lora_forward import lighten

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
DEFAULT_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv_proj",
    "gate_up_proj",
)
"""The linear layers of a Llama block, by their names; the last two are what Phi-3 fuses."""

Targets = Literal["all-linear"] | tuple[str, ...] | None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_targets(module: Any, targets: Targets) -> str | list[str]:
    """The ``target_modules`` for PEFT: the names asked for, else the default names that the model has.

    A model with none of the default names gets ``all-linear``. A name that the model lacks is a ModelError.
    """
    from torch import nn

    if targets == "all-linear":
        return "all-linear"
    # GPT-2 and its kin keep their matrices in a Conv1D of transformers' own.
    linear = {
        name.rpartition(".")[2]
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D"
    }
    if targets is None:
        return [name for name in DEFAULT_TARGETS if name in linear] or "all-linear"
    for name in targets:
        if name.rpartition(".")[2] not in linear:
            raise ModelError(
                f"train.target_modules: the model has no linear layer named {name!r}"
                f"{did_you_mean(name, linear)} (or write target_modules: all-linear)"
            )
    return list(targets)


@contextmanager
def attached(
    module: Any, *, rank: int, alpha: float, dropout: float, targets: Targets
) -> Iterator[Any]:
    """Yield ``module`` as a PEFT model with a new adapter; the base weights are frozen, then as they were.

    A is drawn from torch's global generator, which the caller seeds; B is 0, so the model starts as the base.
    """
    from peft import LoraConfig, get_peft_model

    trainable = [p.requires_grad for p in module.parameters()]
    parameters = list(module.parameters())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=choose_targets(module, targets),
        bias="none",
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(type(child).__name__ == "Conv1D" for child in module.modules()),
    )
    with warnings.catch_warnings():
        # PEFT asks for gradient checkpointing by a name that newer transformers retire.
        warnings.filterwarnings("ignore", message=".*checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(module, config)
    lighten(wrapped)
    try:
        yield wrapped
    finally:
        wrapped.unload()
        for parameter, was in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(was)
            parameter.grad = None


def adapter_parameters(wrapped: Any) -> list[Any]:
    """The trainable tensors of a PEFT model, in their order in the model."""
    return [p for p in wrapped.parameters() if p.requires_grad]


def load_adapter(wrapped: Any, start: ModelRef, *, rank: int, alpha: float) -> None:
    """Put the weights of an existing adapter into ``wrapped``.

    Raises ModelError where ``start`` is no adapter, or one of another shape than the recipe asks for.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    folder = Path(start.path)
    if start.kind != "adapter" or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(
            f"training cannot start from {start.path}: it needs a LoRA adapter, a folder with {WEIGHTS_FILE}; "
            "to start from whole weights, name their folder as the model"
        )
    saved = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if (saved.get("r"), saved.get("lora_alpha")) != (rank, alpha):
        raise ModelError(
            f"the adapter {start.path} has rank {saved.get('r')} and alpha {saved.get('lora_alpha')}, the recipe "
            f"rank {rank} and alpha {alpha:g}: set train.rank and train.alpha to the adapter's"
        )
    weights = load_file(folder / WEIGHTS_FILE)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(wrapped).items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise ModelError(
            f"the adapter {start.path} has other layers than the recipe's: set train.target_modules to "
            f"{sorted(saved.get('target_modules') or ())}, and train the model that it was made for"
        )
    set_peft_model_state_dict(wrapped, weights)


def adapter_tensors(wrapped: Any) -> dict[str, Any]:
    """The adapter's tensors by their names on disk."""
    from peft import get_peft_model_state_dict

    # Embeddings are never trained here; "auto" would ask the hub whether they were.
    state: dict[str, Any] = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return state


def save_adapter(wrapped: Any, out: Path, base: str | None) -> str:
    """Write the adapter to ``out`` in PEFT format and return the SHA-256 of its weights.

    The same weights give the same bytes, in both files. ``base`` is a hub id or the absolute path of a folder.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in adapter_tensors(wrapped).items()
    }
    partial = out / (WEIGHTS_FILE + ".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(out / WEIGHTS_FILE)
    config = wrapped.peft_config["default"]
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(out))
    # PEFT keeps the names in a set, whose order is another one in every process.
    written = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
    for key, value in written.items():
        if isinstance(value, list) and isinstance(getattr(config, key, None), set):
            written[key] = sorted(value)
    write_json(out / CONFIG_FILE, written)
    return file_digest(out / WEIGHTS_FILE)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON in one atomic replacement; NaN and infinities are a ValueError."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def base_path(module: Any, names: Sequence[str | None] = ()) -> str | None:
    """Where the base came from: a hub id, or the absolute path of what is here; None where nobody says."""
    for name in (*names, getattr(module, "name_or_path", None)):
        if name:
            return str(Path(name).resolve()) if Path(name).exists() else str(name)
    return None
