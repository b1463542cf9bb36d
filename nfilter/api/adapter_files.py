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


def adapter_files(ref: ModelRef) -> tuple[Path, Mapping[str, Any]]:
    """Return the folder of an adapter and the contents of its adapter_config.json.

    Raises:
        ModelError: if ``ref`` is not an adapter, its config cannot be read, or it has no safetensors weights.
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
    return folder, config if isinstance(config, Mapping) else {}
