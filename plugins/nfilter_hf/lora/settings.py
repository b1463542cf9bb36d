"""The settings of ``hf.lora``, and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from nfilter import LendsModule, Needs, Proportion, StageConfig
from nfilter_hf.lora.data import LossNorm
from nfilter_hf.lora.trackers import Tracker

Schedule = Literal["linear", "cosine", "constant"]
Auto = Literal["auto"]
Targets = Literal["all-linear"] | tuple[str, ...] | None


_OTHER_NAMES: Final = {
    **dict.fromkeys(("learning_rate", "max_lr", "peak_lr"), "lr"),
    **dict.fromkeys(("lora_r", "r", "lora_rank"), "rank"),
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    **dict.fromkeys(("lora_target_modules", "lora_target", "target", "lora_modules", "target_module"), "target_modules"),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "n_epochs", "epoch", "max_epochs"), "epochs"),
    **dict.fromkeys(("steps", "num_steps", "max_train_steps"), "max_steps"),
    **dict.fromkeys(
        ("per_device_train_batch_size", "train_batch_size", "global_batch_size", "per_device_batch_size", "bsz"), "batch_size",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "micro_batch_size", "grad_accum"),
        "batch_size is the samples per optimiser step, and micro_batch_tokens limits the tokens of one forward pass",
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule"), "schedule"),
    **dict.fromkeys(("warmup_ratio", "lr_warmup"), "warmup"),
    **dict.fromkeys(("warmup_steps", "num_warmup_steps"), "warmup is a fraction of the steps: warmup: 0.03"),
    **dict.fromkeys(("max_norm", "gradient_clipping", "clip_grad_norm", "gradient_clip_val"), "max_grad_norm"),
    **dict.fromkeys(("save_steps", "save_every", "checkpoint_steps"), "checkpoint_every"),
    **dict.fromkeys(("report_to", "log_with", "loggers", "logger"), "trackers"),
    **dict.fromkeys(("base_model", "model_name", "model_name_or_path"), "model"),
    **dict.fromkeys(
        ("max_length", "max_seq_length", "max_seq_len", "cutoff_len", "sequence_len"),
        "it belongs to encoding: encode: {model: student, max_length: 2048}",
    ),
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "quantization", "dtype", "torch_dtype"),
        "it belongs to the model: models: {student: {use: hf, model: NAME, load_in_4bit: true}}, or dtype there",
    ),
    **dict.fromkeys(("optim", "optimizer"), "the optimiser is AdamW; remove the line"),
    **dict.fromkeys(("seed", "random_seed"), "it is a top-level setting: seed: 0"),
    **dict.fromkeys(("output_dir", "out"), "remove the line, and type nfilter run RECIPE --out DIR"),
}  # fmt: skip


class LoraSettings(StageConfig):
    """The settings of the training. ``auto`` is chosen from the rows and the model (the rule is in ``choice.py``).

    The other defaults are those of the RobustFT and token-cleaning papers.
    """

    also_known: ClassVar[Mapping[str, str]] = _OTHER_NAMES

    model: Annotated[str, Needs(LendsModule)] = Field(
        default="student", description="The model that the adapter is trained on."
    )
    rank: int = Field(default=64, ge=1, description="The rank of the adapter's matrices.")
    alpha: float = Field(default=16.0, gt=0, description="The adapter is scaled by alpha / rank.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout on the adapter's input, 0 to below 1."
    )
    target_modules: Targets = Field(
        default=None,
        description="all-linear, or names of linear layers; null: q, k, v, o, gate, up and down.",
    )
    lr: Annotated[float, Field(gt=0)] | Auto = Field(
        default="auto",
        description="The peak learning rate of AdamW; auto: 2e-4 at a hidden size of 2048, more for smaller models.",
    )
    schedule: Schedule = Field(
        default="linear", description="The schedule of the learning rate after warm-up."
    )
    warmup: Proportion = Field(
        default=0.03, description="Fraction of the steps in which the learning rate rises, 0 to 1."
    )
    epochs: Annotated[int, Field(ge=1)] | Auto = Field(
        default="auto",
        description="Passes over the rows; auto: 2, or as many as 100 optimiser steps take, at most 10.",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps, at most; null for no limit."
    )
    batch_size: Annotated[int, Field(ge=1)] | Auto = Field(
        default="auto",
        description="Samples per optimiser step; auto: 4, 8, 16 or 32, the largest with 50 steps or more per epoch.",
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens per forward pass, with padding; null: 4096, on a CPU 1024.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="The weight decay of AdamW, at least 0."
    )
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="The norm to which gradients are clipped; null clips none."
    )
    loss_norm: LossNorm = Field(
        default="tokens", description="The unit over which the loss of a step is averaged."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Use less memory and about a third more time."
    )
    bf16: bool | Literal["auto"] = Field(
        default="auto", description="Train in bfloat16; auto: on a GPU that supports it."
    )
    checkpoint_every: int | None = Field(
        default=50, ge=1, description="Optimiser steps between checkpoints; null writes none."
    )
    shard: bool = Field(
        default=False,
        description="Shard the base over the GPUs of several processes (FSDP2); its model needs device: cpu.",
    )
    trackers: tuple[Tracker, ...] = Field(
        default=(),
        description="Experiment trackers for the loss, learning rate and gradient norm of each step.",
    )


def pass_tokens(config: LoraSettings, device: str) -> int:
    """Return the tokens per forward pass on that type of device; the default for a CPU fits its caches."""
    return config.micro_batch_tokens or (1024 if device == "cpu" else 4096)


def lr_factor(step: int, steps: int, warmup: float, schedule: Schedule) -> float:
    """Return the fraction of the peak learning rate at ``step`` (from 0) of ``steps``.

    Warm-up rises linearly over ``ceil(warmup * steps)`` steps and is never 0, so a training of one step changes the
    weights; then linear and cosine fall to 0 after the last step.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1, steps - rising)
    match schedule:
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "constant":
            return 1.0
