"""Folds a LoRA adapter into its base: one folder of weights that runs without PEFT."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import yaml

from nfilter import ModelError, RecipeError, StoreError, did_you_mean
from nfilter_hf.checks import TOKENIZER_FILES, read_json
from nfilter_hf.lora_adapter import CONFIG_FILE, WEIGHTS_FILE


def merge(adapter: Path, base: str, out: Path) -> Path:
    """Write base + alpha / rank * B A to ``out`` as safetensors, with the tokenizer where the base has one.

    The sum is taken in float32 and saved in the type of the base. ``base`` is a folder or a hub id; ``out`` must not
    exist, or be empty, and appears whole or not at all. Raises ModelError for an adapter or a base that cannot be
    used, StoreError for ``out``.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (adapter / name).is_file():
            raise ModelError(
                f"{adapter} holds no LoRA adapter: {name} is missing; give the folder that training wrote"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is not an empty folder: give another one with --out")
    try:
        module = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the base model {base!r} cannot be loaded ({_first_line(error)}): give its folder or hub id with --model"
        ) from error
    if getattr(module.config, "quantization_config", None) is not None:
        raise ModelError(
            f"{base} is quantised, and an adapter cannot be folded into quantised weights without loss: give the "
            "base in full precision with --model"
        )
    saved_as = _saved_dtype(base, module)
    try:
        with warnings.catch_warnings():
            # PEFT asks for gradient checkpointing by a name that newer transformers retire.
            warnings.filterwarnings("ignore", message=".*checkpointing.*", category=FutureWarning)
            wrapped = PeftModel.from_pretrained(module, str(adapter))
        _check_fits(wrapped, adapter, base)
        merged: Any = wrapped.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the adapter {adapter} does not fit the base {base!r} ({_first_line(error)}): give the base that it was "
            "trained on with --model"
        ) from error
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    merged.to(saved_as).save_pretrained(partial)
    _save_tokenizer(base, partial)
    if out.exists():
        out.rmdir()
    partial.replace(out)
    return out


def merge_run(
    run: Path, arm: str = "cleaned", out: Path | None = None, model: str | None = None
) -> Path:
    """Fold the adapter of one arm of a run into its base; by default into RUN/merged/ARM.

    The base is ``model``, else what the adapter says that it was trained on, else the model that the run's
    recipe trains. Raises StoreError for what is no run, ModelError for an arm without an adapter.
    """
    lock = run / "recipe.lock.yaml"
    if not lock.is_file():
        raise StoreError(
            f"{run} is not a run: it has no recipe.lock.yaml; give a folder that 'nfilter run' wrote"
        )
    adapters = run / "adapters"
    arms = sorted(path.parent.name for path in adapters.glob(f"*/{CONFIG_FILE}"))
    if arm not in arms:
        known = did_you_mean(arm, arms) or "; the run trained none"
        raise ModelError(f"{run} has no adapter of the arm {arm!r}{known}: choose one with --arm")
    folder = adapters / arm
    base = model or _base_of(folder, lock)
    return merge(folder, base, out or run / "merged" / arm)


def _base_of(adapter: Path, lock: Path) -> str:
    said = (read_json(adapter / CONFIG_FILE) or {}).get("base_model_name_or_path")
    if (
        isinstance(said, str)
        and said
        and not (Path(said).is_absolute() and not Path(said).is_dir())
    ):
        return said
    named = _trained_model(lock)
    if named is not None and Path(named).is_dir():
        return str(named)
    raise ModelError(
        f"the base of {adapter} is not at {said or 'a place that the adapter names'}, and the recipe's model "
        f"({named}) is no folder here: give its folder or hub id with --model"
    )


def _trained_model(lock: Path) -> Path | None:
    """Where the model that ``train.model`` names in the run's recipe is, if it is a folder."""
    try:
        recipe = yaml.safe_load(lock.read_text(encoding="utf-8"))
        entry = recipe["models"][recipe["train"]["model"]]
        for _ in range(len(recipe["models"])):
            if not isinstance(entry, str):
                break
            entry = recipe["models"][entry]
        return Path(recipe.get("lock", {}).get("base_dir", ""), str(entry["model"]))
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{lock} is not YAML ({_first_line(error)}): name the base with --model"
        ) from error
    except (AttributeError, KeyError, TypeError):
        return None


def _check_fits(wrapped: Any, adapter: Path, base: str) -> None:
    # PEFT only warns of an adapter's weights that it finds no place for.
    from safetensors import safe_open

    from nfilter_hf.lora_adapter import adapter_tensors

    with safe_open(adapter / WEIGHTS_FILE, framework="np") as file:
        names = set(file.keys())
    if names != set(adapter_tensors(wrapped)):
        raise ModelError(
            f"the adapter {adapter} has layers that the base {base!r} lacks: give the base that it was trained on "
            "with --model"
        )


def _saved_dtype(base: str, module: Any) -> Any:
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(base).dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    return dtype if isinstance(dtype, torch.dtype) else module.dtype


def _save_tokenizer(base: str, out: Path) -> None:
    from transformers import AutoTokenizer

    if Path(base).is_dir() and not any((Path(base) / name).is_file() for name in TOKENIZER_FILES):
        return
    AutoTokenizer.from_pretrained(base, trust_remote_code=False).save_pretrained(out)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


__all__ = ["merge", "merge_run"]
