"""A LoRA adapter on a lent module: attached, loaded, saved in PEFT format, removed."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nfilter import ModelError, ModelRef, did_you_mean, publishing
from nfilter_hf.fingerprint import file_sha256
from nfilter_hf.lora.forward import lighten
from nfilter_hf.lora.settings import LoraSettings, Targets
from nfilter_hf.tensor_files import save_tensors

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
"""Names of the linear layers of a Llama block; the last two are the fused layers of Phi-3."""


def choose_targets(module: Any, targets: Targets) -> str | list[str]:
    """Return the ``target_modules`` for PEFT: ``targets`` if given, else the default names that the model has.

    A model with none of the default names gets ``all-linear``.

    Raises:
        ModelError: the model has no linear layer of a given name.
    """
    from torch import nn

    if targets == "all-linear":
        return "all-linear"
    # GPT-2 and similar models keep their matrices in Conv1D of transformers.
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
    """Yield ``module`` as a PEFT model with a new adapter; the base weights are frozen inside the block.

    A is drawn from torch's global generator, which the caller seeds; B is 0, so the model starts equal to the base.
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
        # PEFT enables gradient checkpointing by a name that newer transformers deprecate.
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


def load_adapter(wrapped: Any, start: ModelRef, *, rank: int, alpha: float) -> None:
    """Copy the weights of an existing adapter into ``wrapped``.

    Raises:
        ModelError: ``start`` is not an adapter, or its rank, alpha or layers differ from the recipe's.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    folder = Path(start.path)
    if start.kind != "adapter" or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(
            f"training cannot start from {start.path}: it is not a LoRA adapter (a folder with {WEIGHTS_FILE}); "
            "to start from full weights, set their folder as the model"
        )
    saved = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if (saved.get("r"), saved.get("lora_alpha")) != (rank, alpha):
        raise ModelError(
            f"the adapter {start.path} has rank {saved.get('r')} and alpha {saved.get('lora_alpha')}, and the recipe "
            f"has rank {rank} and alpha {alpha:g}: set train.rank and train.alpha to the adapter's values"
        )
    weights = load_file(folder / WEIGHTS_FILE)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(wrapped).items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise ModelError(
            f"the layers of the adapter {start.path} differ from the recipe's: set train.target_modules to "
            f"{sorted(saved.get('target_modules') or ())}, and train the base model of the adapter"
        )
    set_peft_model_state_dict(wrapped, weights)


def adapter_tensors(wrapped: Any) -> dict[str, Any]:
    """Return the adapter's tensors by their names on disk."""
    from peft import get_peft_model_state_dict

    # Embeddings are never trained; "auto" would query the hub for their original size.
    state: dict[str, Any] = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return state


def save_adapter(wrapped: Any, out: Path, base: str | None) -> str:
    """Write the adapter to ``out`` in PEFT format and return the SHA-256 of its weights.

    Equal weights give equal bytes in both files. ``base`` is a hub id or the absolute path of a folder.
    """
    tensors = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in adapter_tensors(wrapped).items()
    }
    save_tensors(tensors, out / WEIGHTS_FILE, {"format": "pt"})
    config = wrapped.peft_config["default"]
    config.base_model_name_or_path = base
    config.inference_mode = True
    # PEFT keeps the names in a set, whose order differs between processes.
    with tempfile.TemporaryDirectory(prefix="nfilter-adapter-") as folder:
        config.save_pretrained(folder)
        written = json.loads(Path(folder, CONFIG_FILE).read_text(encoding="utf-8"))
    for key, value in written.items():
        if isinstance(value, list) and isinstance(getattr(config, key, None), set):
            written[key] = sorted(value)
    write_json(out / CONFIG_FILE, written)
    return file_sha256(out / WEIGHTS_FILE)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, synced and atomically.

    Raises:
        ValueError: ``value`` contains NaN or an infinity.
        StoreError: ``path`` cannot be written.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with publishing(path) as out:
        out.write(text + "\n")


def base_path(module: Any) -> str | None:
    """Return the origin of the base: the absolute path of a local folder, else a hub id; None if unknown."""
    name = getattr(module, "name_or_path", None)
    if not name:
        return None
    return str(Path(name).resolve()) if Path(name).exists() else str(name)


@contextmanager
def seeded(module: Any, seed: int) -> Iterator[None]:
    """Seed torch's global generators, the source of the adapter's initial values and of dropout; restore them on exit."""
    import torch

    with same_random_numbers(module):
        torch.manual_seed(seed)
        yield


@contextmanager
def same_random_numbers(module: Any) -> Iterator[None]:
    """Restore torch's generators on exit: code after the block draws the same dropout as code inside it."""
    import torch

    device = next(module.parameters()).device
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


@contextmanager
def base_only(module: Any) -> Iterator[None]:
    """Run ``module`` without its adapter and in evaluation mode inside the block; restore both on exit."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        for layer in layers:
            layer.enable_adapters(enabled=False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
        for part in training:
            part.training = True


@contextmanager
def quantised_ready(module: Any) -> Iterator[None]:
    """Prepare a base quantised to 4 or 8 bits for training, and restore it on exit; other bases are unchanged."""
    if not (
        getattr(module, "is_loaded_in_4bit", False) or getattr(module, "is_loaded_in_8bit", False)
    ):
        yield
        return
    from peft import prepare_model_for_kbit_training

    # The preparation casts norms, embeddings and head to float32 and freezes all parameters.
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
    """Keep only the activations at layer boundaries, and recompute the others in the backward pass."""
    if not on:
        yield
        return
    # Some versions of transformers 5 rename these methods.
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


@contextmanager
def adapted(module: Any, config: LoraSettings, start: ModelRef | None = None) -> Iterator[Any]:
    """Yield ``module`` with a new adapter, or with the weights of ``start``, in evaluation mode."""
    with (
        quantised_ready(module),
        attached(
            module,
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            targets=config.target_modules,
        ) as wrapped,
        checkpointing(module, on=config.gradient_checkpointing),
    ):
        if start is not None:
            load_adapter(wrapped, start, rank=config.rank, alpha=config.alpha)
            # PEFT turns dropout on, which would change the comparisons before training.
            wrapped.eval()
        yield wrapped


def fingerprint(model: Any, module: Any) -> str:
    """Return the fingerprint of a base, else the path of its module, else ``unknown``."""
    get = getattr(model, "fingerprint", None)
    return str(get()) if callable(get) else str(getattr(module, "name_or_path", "") or "unknown")
