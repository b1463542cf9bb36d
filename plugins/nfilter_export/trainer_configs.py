"""Configurations with which other trainers train on the exported rows as the run's own trainer would.

The names are those of TRL 1.16 (``trl sft``), axolotl 0.19, LLaMA-Factory 0.9.5 and ms-swift 4.6. Settings that the other trainer
does not have are left out: ``left_out`` names those that change what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from nfilter import FineTune

FILE: Final = "train.yaml"
ADAPTER: Final = "adapter"
_PER_PASS: Final = 4
"""Rows of a forward pass at most; a step accumulates the gradients of as many passes as its batch needs."""
_USUAL: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The layers that ``hf.lora`` trains where the recipe names none."""


def write_config(out: Path, value: Mapping[str, Any], command: str) -> str:
    """Write train.yaml; return its line of the summary. ``command`` starts the training in the folder."""
    text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    (out / FILE).write_text(f"# {command}\n{text}", encoding="utf-8")
    return f"{FILE}: start the training in this folder with: {command}"


def write(out: Path, tune: FineTune, value: Mapping[str, Any], command: str) -> list[str]:
    """Write train.yaml; return its lines of the summary."""
    return [write_config(out, value, command), *left_out(tune)]


def left_out(tune: FineTune) -> list[str]:
    """What the run's trainer does and none of these configurations asks for."""
    loss = tune.settings.get("loss")
    return (
        [] if loss is None else [f"{FILE}: the loss of the run ({_name(loss)}) is not carried over"]
    )


def trl(tune: FineTune, rows: int, *, encoded: bool) -> dict[str, Any]:
    """The configuration of ``trl sft``; without tokens the loss is on assistant turns."""
    lora = {
        "use_peft": True, "lora_r": tune.settings.get("rank"), "lora_alpha": _whole(tune.settings.get("alpha")),
        "lora_dropout": tune.settings.get("dropout"), "lora_target_modules": _targets(tune),
    }  # fmt: skip
    return _some(
        {
            "model_name_or_path": tune.model,
            "datasets": [{"path": "json", "data_files": "train.jsonl", "split": "train"}],
            "output_dir": ADAPTER,
            **lora,
            **_common(tune, rows),
            "max_length": tune.max_length,
            **({} if encoded else {"assistant_only_loss": True}),
            "report_to": "none",
        }
    )


def trl_dpo(tune: FineTune) -> dict[str, Any]:
    """The configuration of ``trl dpo``: model, LoRA and data. Rate and epochs of the run are not those of preferences."""
    return _some(
        {
            "model_name_or_path": tune.model,
            "datasets": [{"path": "json", "data_files": "train.jsonl", "split": "train"}],
            "output_dir": ADAPTER,
            "use_peft": True,
            "lora_r": tune.settings.get("rank"),
            "lora_alpha": _whole(tune.settings.get("alpha")),
            "lora_target_modules": _targets(tune),
            "max_length": tune.max_length,
            "seed": tune.seed,
            "report_to": "none",
        }
    )


def axolotl(tune: FineTune, rows: int, *, encoded: bool, flags: bool = False) -> dict[str, Any]:
    """The configuration of axolotl; ``flags``: assistant turns say in ``train`` whether they are in the loss."""
    chat = {
        "type": "chat_template", "field_messages": "messages", "roles_to_train": ["assistant"],
        **({"message_field_training": "train"} if flags else {}),
    }  # fmt: skip
    targets = _targets(tune)
    settings = _common(tune, rows)
    return _some(
        {
            "base_model": tune.model,
            "datasets": [{"path": "train.jsonl", "ds_type": "json", **({"type": "input_output"} if encoded else chat)}],
            "train_on_inputs": False,
            "val_set_size": 0,
            "output_dir": ADAPTER,
            "adapter": "lora",
            "lora_r": tune.settings.get("rank"),
            "lora_alpha": _whole(tune.settings.get("alpha")),
            "lora_dropout": tune.settings.get("dropout"),
            **({"lora_target_linear": True} if targets == "all-linear" else {"lora_target_modules": targets}),
            "sequence_len": tune.max_length,
            "micro_batch_size": settings.pop("per_device_train_batch_size", None),
            "num_epochs": settings.pop("num_train_epochs", None),
            "lr_scheduler": settings.pop("lr_scheduler_type", None),
            "gradient_checkpointing": tune.settings.get("gradient_checkpointing"),
            "optimizer": "adamw_torch",
            **settings,
        }
    )  # fmt: skip


def llamafactory(tune: FineTune, rows: int, dataset: str) -> dict[str, Any]:
    """The configuration of ``llamafactory-cli train``; without ``template`` it reads that of the tokenizer."""
    targets = _targets(tune)
    return _some(
        {
            "model_name_or_path": tune.model,
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": tune.settings.get("rank"),
            "lora_alpha": _whole(tune.settings.get("alpha")),
            "lora_dropout": tune.settings.get("dropout"),
            "lora_target": "all" if targets == "all-linear" else ",".join(targets),
            "dataset_dir": ".",
            "dataset": dataset,
            "cutoff_len": tune.max_length,
            "output_dir": ADAPTER,
            **_common(tune, rows),
            "report_to": "none",
        }
    )


def swift(tune: FineTune, rows: int, *, fractions: bool) -> dict[str, Any]:
    """The configuration of ``swift sft``; ``fractions``: some weights are neither 0 nor 1."""
    targets = _targets(tune)
    settings = _common(tune, rows)
    return _some(
        {
            "model": tune.model,
            "dataset": ["train.jsonl"],
            "tuner_type": "lora",
            "lora_rank": tune.settings.get("rank"),
            "lora_alpha": _whole(tune.settings.get("alpha")),
            "lora_dropout": tune.settings.get("dropout"),
            "target_modules": [targets] if isinstance(targets, str) else targets,
            "max_length": tune.max_length,
            "output_dir": ADAPTER,
            **({"is_binary_loss_scale": False} if fractions else {}),
            **settings,
            "report_to": "none",
        }
    )


def _common(tune: FineTune, rows: int) -> dict[str, Any]:
    """What all configurations have, under the names of transformers' TrainingArguments."""
    get = tune.settings.get
    batch, epochs, limit = get("batch_size"), get("epochs"), get("max_steps")
    size = batch if isinstance(batch, int) else None
    each = max(n for n in range(1, _PER_PASS + 1) if size % n == 0) if size else None
    warmup = None
    if size and isinstance(epochs, int | float):
        steps = math.ceil(math.ceil(rows / size) * epochs)
        steps = min(steps, limit) if isinstance(limit, int) else steps
        share = get("warmup")
        warmup = math.ceil(share * steps) if isinstance(share, int | float) else 0
    return {
        "per_device_train_batch_size": each,
        "gradient_accumulation_steps": size // each if size and each else None,
        "learning_rate": get("lr"),
        "lr_scheduler_type": get("schedule"),
        "warmup_steps": warmup,
        "num_train_epochs": epochs,
        "max_steps": limit,
        "weight_decay": get("weight_decay"),
        "max_grad_norm": get("max_grad_norm"),
        "seed": tune.seed,
    }


def _targets(tune: FineTune) -> str | list[str]:
    found = tune.settings.get("target_modules")
    if isinstance(found, str):
        return found
    return [str(name) for name in found] if isinstance(found, Sequence) else _USUAL


def _some(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not known, and without ``auto``: the other trainer's default stands there."""
    return {key: item for key, item in value.items() if item is not None and item != "auto"}


def _whole(value: Any) -> Any:
    """16.0 as 16: the other trainers read alpha as a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(loss: Any) -> str:
    return str(loss.get("use")) if isinstance(loss, Mapping) else str(loss)
