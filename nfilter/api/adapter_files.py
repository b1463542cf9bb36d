"""The files of an adapter in PEFT's format, as every backend that loads one needs them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nfilter.api.calls import ModelRef
from nfilter.api.errors import ModelError

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_LENGTH: Final = 8
"""Bytes at the start of a safetensors file: the length of its header, a JSON object."""


def adapter_files(ref: ModelRef) -> tuple[Path, Mapping[str, Any]]:
    """Return the folder of an adapter and the contents of its adapter_config.json.

    Raises:
        ModelError: if ``ref`` is not an adapter, its config cannot be read, it has no safetensors weights, or it is an aLoRA.
    """
    folder = Path(ref.path)
    if ref.kind != "adapter":
        raise ModelError(
            f"{folder} has full weights, not an adapter: name it as a separate model, "
            f"models: {{NAME: {{use: hf, model: {folder}}}}}"
        )
    if not (folder / _CONFIG).is_file():
        raise ModelError(f"{folder} has no {_CONFIG}; give the folder that training wrote")
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / _CONFIG} is not JSON: {error}") from error
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(
            f"{folder} has no {_WEIGHTS}; pickled adapters are never loaded: save it again as safetensors"
        )
    if not isinstance(config, Mapping):
        config = {}
    if config.get("alora_invocation_tokens"):
        # PEFT applies it only inside a model class of its own that reads the prompt, and elsewhere to no token.
        raise ModelError(
            f"the adapter in {folder} is switched on by tokens of the prompt (aLoRA), which no backend does; give one that a run has trained"
        )
    return folder, config


def adapter_tensors(folder: Path) -> tuple[str, ...]:
    """Return the names of the tensors in an adapter's safetensors file, in the order of its header.

    Raises:
        ModelError: if the file is damaged.
    """
    file = folder / _WEIGHTS
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(_LENGTH), "little")
            if size > file.stat().st_size - _LENGTH:
                raise ValueError("it ends within its header")
            header = dict[str, Any](json.loads(opened.read(size)))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{file} is damaged: {error}; give the folder that training wrote"
        ) from error
    return tuple(name for name in header if name != "__metadata__")
