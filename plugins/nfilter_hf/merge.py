"""Merge a LoRA adapter into its base: a folder of weights that needs no PEFT."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nfilter import (
    ModelError,
    RecipeError,
    Site,
    StoreError,
    check_folder,
    did_you_mean,
    first_line,
    publishing_folder,
)
from nfilter_hf.checks import TOKENIZER_FILES, read_json
from nfilter_hf.config import HFConfig, locate
from nfilter_hf.gguf.header import SUFFIX
from nfilter_hf.loading import Source, find, open_whole
from nfilter_hf.lora.adapter import CONFIG_FILE, WEIGHTS_FILE
from nfilter_hf.tensor_files import writing_tensors

DTYPES = ("float32", "bfloat16", "float16")
TRAINED = "nfilter.json"
"""The engine's record of a training, in the adapter's folder."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model: its folder, the type of its weights, and the error of rounding to that type.

    ``lost`` is the norm of the rounding error in the adapted layers, relative to the norm of the adapter's change; ``logits`` is
    the largest change of a logit by the rounding of all weights, over 64 random tokens. Both are 0 in float32.
    """

    folder: Path
    dtype: str
    lost: float
    logits: float

    @property
    def message(self) -> str:
        """A sentence about the type and its rounding error."""
        if self.dtype == "float32":
            return "saved in float32, the type of the sum, without rounding"
        return (
            f"saved in {self.dtype}: rounding changes the weights by {self.lost:.1%} of the adapter's change, and "
            f"logits by up to {self.logits:.2g} (64 random tokens); --dtype float32 avoids rounding"
        )


def merge(adapter: Path, base: str, out: Path, dtype: str | None = None) -> Merged:
    """Write base + alpha / rank * B A to ``out`` as safetensors, with the tokenizer if the base has one.

    The sum is computed in float32 and saved as ``dtype``; the default is the type of the base during training, from
    training.json, else the type in which the base is stored. ``base`` is a folder, a hub id or a GGUF file (``PATH`` or
    ``hub-id:FILE``), whose weights are dequantised. ``out`` must not exist or must be empty, and is published atomically.

    Raises:
        ModelError: if the adapter or the base cannot be used.
        StoreError: if ``out`` exists or cannot be written.
    """
    import torch
    from peft import PeftModel

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (adapter / name).is_file():
            raise ModelError(
                f"{adapter} has no LoRA adapter: {name} is missing; give the folder that training wrote"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is not an empty folder: give another one with --out")
    packed = _packed(base)
    module, tokenizer = _open(base) if packed is None else open_whole(packed)
    if getattr(module.config, "quantization_config", None) is not None:
        raise ModelError(
            f"{base} is quantised, and an adapter cannot be merged into quantised weights without loss: give the "
            "base in full precision with --model"
        )
    saved_as = dtype or _trained_dtype(adapter) or ("float32" if packed else _stored_dtype(base))
    try:
        with warnings.catch_warnings():
            # PEFT enables gradient checkpointing with a name that newer transformers deprecate.
            warnings.filterwarnings("ignore", message=".*checkpointing.*", category=FutureWarning)
            wrapped = PeftModel.from_pretrained(module, str(adapter))
        _check_fits(wrapped, adapter, base)
        lost = _rounding(wrapped, getattr(torch, saved_as))
        merged: Any = wrapped.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the adapter {adapter} does not fit the base {base!r} ({first_line(error)}): give the base that it was "
            "trained on with --model"
        ) from error
    exact = _probe(merged)
    _cast(merged, getattr(torch, saved_as))
    with publishing_folder(out) as part, writing_tensors():
        merged.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
    # In float32 again, so that only the weights are rounded, not the computation.
    _cast(merged, torch.float32)
    logits = float((_probe(merged) - exact).abs().max())
    return Merged(out, saved_as, lost, logits)


def merge_run(
    run: Path,
    arm: str = "cleaned",
    out: Path | None = None,
    model: str | None = None,
    dtype: str | None = None,
) -> Merged:
    """Merge the adapter of one arm of a run into its base; by default into RUN/merged/ARM.

    The base is ``model``, else the one that the adapter names, else the model that the run's recipe trains.

    Raises:
        StoreError: if ``run`` is not a run, or the adapter was changed.
        ModelError: if the arm has no adapter, or the base cannot be used.
    """
    lock = run / "recipe.lock.yaml"
    if not lock.is_file():
        seeds = sorted(run.glob("seed-*/recipe.lock.yaml"))
        if seeds:
            raise StoreError(
                f"{run} is a group with one run per seed, and each has its own adapter: name one, like {seeds[0].parent}"
            )
        raise StoreError(
            f"{run} is not a run: it has no recipe.lock.yaml; give a folder that 'nfilter run' wrote"
        )
    adapters = run / "adapters"
    arms = sorted(path.parent.name for path in adapters.glob(f"*/{CONFIG_FILE}"))
    if arm not in arms:
        raise ModelError(f"{run} has no adapter of the arm {arm!r}{_instead(arm, arms)}")
    folder = adapters / arm
    # Only the unchanged files of the training are merged.
    check_folder(folder / TRAINED, run)
    base = model or _base_of(folder, lock)
    return merge(folder, base, out or run / "merged" / arm, dtype)


def _instead(arm: str, arms: Sequence[str]) -> str:
    if arms:
        return f"{did_you_mean(arm, arms)}: choose one with --arm"
    return (
        ", nor of another arm: nothing was trained; write train: {use: hf.lora, model: MODEL} into the recipe, where MODEL is "
        "a name under models, and run it again"
    )


def _base_of(adapter: Path, lock: Path) -> str:
    named_base = (read_json(adapter / CONFIG_FILE) or {}).get("base_model_name_or_path")
    if (
        isinstance(named_base, str)
        and named_base
        and not (Path(named_base).is_absolute() and not Path(named_base).exists())
    ):
        return named_base
    named = _trained_model(lock)
    if named is not None and Path(named).exists():
        return str(named)
    raise ModelError(
        f"the base of {adapter} is not at {named_base or 'the path that the adapter names'}, and the recipe's model "
        f"({named}) does not exist: give its folder, GGUF file or hub id with --model"
    )


def _trained_model(lock: Path) -> Path | None:
    """The path of the model that ``train.model`` names in the run's recipe, if it is a folder."""
    try:
        recipe = yaml.safe_load(lock.read_text(encoding="utf-8"))
        entry = recipe["models"][recipe["train"]["model"]]
        for _ in range(len(recipe["models"])):
            if not isinstance(entry, str):
                break
            entry = recipe["models"][entry]
        return Path(recipe.get("lock", {}).get("base_dir", ""), str(entry["model"]))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(
            f"{lock} is not YAML ({first_line(error)}): name the base with --model"
        ) from error
    except (AttributeError, KeyError, TypeError):
        return None


def _check_fits(wrapped: Any, adapter: Path, base: str) -> None:
    # PEFT only warns about adapter weights that it cannot assign.
    from safetensors import safe_open

    from nfilter_hf.lora.adapter import adapter_tensors

    with safe_open(adapter / WEIGHTS_FILE, framework="np") as file:
        names = set(file.keys())
    if names != set(adapter_tensors(wrapped)):
        raise ModelError(
            f"the adapter {adapter} has layers that the base {base!r} lacks: give the base that it was trained on "
            "with --model"
        )


def _trained_dtype(adapter: Path) -> str | None:
    """The type of the base's weights during training, from training.json; None if it is absent."""
    named = (read_json(adapter / "training.json") or {}).get("dtype")
    return named if named in DTYPES else None


def _stored_dtype(base: str) -> str:
    from transformers import AutoConfig

    named = str(AutoConfig.from_pretrained(base).dtype).removeprefix("torch.")
    return named if named in DTYPES else "float32"


def _rounding(wrapped: Any, dtype: Any) -> float:
    """The norm of the rounding error of ``dtype`` in the adapted layers, relative to the norm of the adapter's change."""
    import torch
    from peft.tuners.lora import LoraLayer

    error = change = 0.0
    with torch.no_grad():
        for layer in wrapped.modules():
            if isinstance(layer, LoraLayer):
                delta = layer.get_delta_weight(layer.active_adapters[0])
                total = layer.get_base_layer().weight + delta
                error += float((total.to(dtype).float() - total).double().square().sum())
                change += float(delta.double().square().sum())
    return math.sqrt(error / change) if change else 0.0


def _cast(module: Any, dtype: Any) -> None:
    # Only parameters: computed buffers, such as rotary frequencies, are not saved.
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _probe(module: Any) -> Any:
    """Logits of the same 64 random tokens, float32 [64, vocabulary]."""
    import torch

    size = min(64, int(getattr(module.config, "max_position_embeddings", None) or 64))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(module.config.vocab_size), (1, size), generator=generator)
    with torch.no_grad():
        return module.eval()(input_ids=ids).logits[0].float()


def _packed(base: str) -> Source | None:
    """The GGUF file that ``base`` is, contains, or names on the hub; None for another kind of model. Raises ModelError."""
    site = Site(Path())
    place = locate(base, site)
    if place.problem and (base.lower().endswith(SUFFIX) or Path(base).is_dir()):
        raise ModelError(f"{place.problem}; name the base with --model")
    if place.file is None:
        return None
    return find(HFConfig(model=base), site)


def _open(base: str) -> tuple[Any, Any]:
    """The model of a folder or the hub in float32, and its tokenizer if it has one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        module = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the base model {base!r} cannot be loaded ({first_line(error)}): give its folder, GGUF file or hub id with "
            "--model"
        ) from error
    if Path(base).is_dir() and not any((Path(base) / name).is_file() for name in TOKENIZER_FILES):
        return module, None
    return module, AutoTokenizer.from_pretrained(base, trust_remote_code=False)
