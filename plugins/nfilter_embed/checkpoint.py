"""The folder of an encoder's checkpoint: location, relevant files, and problems detected without loading it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nfilter import Site

FILES = (
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*/config.json",
    "*/*.safetensors",
    "*/*.txt",
)
"""Files that are downloaded from the hub and covered by the fingerprint: no pickles, no code."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LIBRARY = "sentence_transformers."


def _expanded(model: str) -> Path:
    """Expand ``~``; return the path unchanged if the user does not exist."""
    try:
        return Path(model).expanduser()
    except RuntimeError:
        return Path(model)


def find_folder(model: str, site: Site) -> Path | None:
    """Return the folder of a shipped model or of a path relative to the recipe; None if it does not exist."""
    if model in site.models:
        return Path(site.models[model])
    folder = site.base_dir / _expanded(model)
    return folder if folder.is_dir() else None


def is_hub_id(model: str) -> bool:
    """Return whether ``model`` is a syntactically valid hub id."""
    return _HUB_ID.fullmatch(model) is not None and ".." not in model


def model_files(folder: Path) -> list[Path]:
    """Return the sorted paths of the checkpoint's files that affect its output."""
    return sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})


def problems(folder: Path) -> Iterator[str]:
    """Yield the reasons, with remedies, that the checkpoint in ``folder`` cannot be used."""
    if not (folder / "config.json").is_file():
        yield f"{folder} has no config.json, so it is not an encoder; give the folder that contains one"
        return
    if "auto_map" in (_read_json(folder / "config.json") or {}):
        yield f"{folder}: this encoder needs its own Python code (auto_map in config.json), which is never executed"
    for part in _modules(folder):
        kind = str(part.get("type", ""))
        if not kind.startswith(_LIBRARY):
            yield f"{folder}: module {kind!r} in modules.json is not part of sentence-transformers, and is never imported"
        path = folder / str(part.get("path", ""))
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"{folder}: modules.json names {part.get('path')!r}, which is outside the folder"
        elif any(path.glob("pytorch_model*.bin")) and not any(path.glob("*.safetensors")):
            yield f"{path} contains pickled weights, which are not loaded; save the encoder again as safetensors"


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return the modules listed in modules.json; without that file, a single transformer."""
    modules = _read_json(folder / "modules.json")
    if not isinstance(modules, list):
        return [{"type": f"{_LIBRARY}models.Transformer", "path": ""}]
    return [module for module in modules if isinstance(module, dict)]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
