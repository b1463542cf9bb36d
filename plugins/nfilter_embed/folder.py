"""An encoder's folder: where it is, which files count, and what is wrong with it, seen without loading it."""

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
"""What is fetched of a hub model, and what its fingerprint covers: no pickles, no code."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OWN = "sentence_transformers."


def _expanded(model: str) -> Path:
    """The path with the user's folder in place of ``~``; as it is where there is no such user."""
    try:
        return Path(model).expanduser()
    except RuntimeError:
        return Path(model)


def find(model: str, site: Site) -> Path | None:
    """The folder that ``model`` names: of a model that ships, else relative to the recipe; None where there is none."""
    if model in site.models:
        return Path(site.models[model])
    folder = site.base_dir / _expanded(model)
    return folder if folder.is_dir() else None


def is_hub_id(model: str) -> bool:
    """Whether ``model`` has the form of a hub id."""
    return _HUB_ID.fullmatch(model) is not None and ".." not in model


def model_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what it answers, by path."""
    return sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})


def problems(folder: Path) -> Iterator[str]:
    """Why the checkpoint in ``folder`` cannot be used, each with its remedy."""
    if not (folder / "config.json").is_file():
        yield f"{folder} has no config.json, so it is no encoder; give the folder that has one"
        return
    if "auto_map" in (_read(folder / "config.json") or {}):
        yield f"{folder}: this encoder runs Python code of its own (auto_map in config.json), which is never executed"
    for part in _parts(folder):
        kind = str(part.get("type", ""))
        if not kind.startswith(_OWN):
            yield f"{folder}: module {kind!r} in modules.json is no part of sentence-transformers, and is never imported"
        place = folder / str(part.get("path", ""))
        if not place.resolve().is_relative_to(folder.resolve()):
            yield f"{folder}: modules.json names {part.get('path')!r}, which is outside the folder"
        elif any(place.glob("pytorch_model*.bin")) and not any(place.glob("*.safetensors")):
            yield f"{place} holds pickled weights, which are not loaded; save the encoder again as safetensors"


def _parts(folder: Path) -> list[dict[str, Any]]:
    """The modules that modules.json lists; without one, the folder is a single transformer."""
    parts = _read(folder / "modules.json")
    if not isinstance(parts, list):
        return [{"type": f"{_OWN}models.Transformer", "path": ""}]
    return [part for part in parts if isinstance(part, dict)]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
