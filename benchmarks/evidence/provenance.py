"""What the figures are of: versions, data, weights, prompts, commits; and the skill profile that ships with the weights."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.api.types import Row
from nfilter.engine.ingest import rows
from nfilter.engine.lookup import prompts_of
from nfilter.engine.versions import versions
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins
from nfilter.store.files import digest, read_json

Families = Mapping[str, str]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def model_folders(recipe: Recipe, plugins: Plugins) -> dict[str, Path]:
    """The folders of the recipe's models that ship with a plugin."""
    named = {name: getattr(use.config, "model", None) for name, use in recipe.models.items()}
    return {
        name: plugins.models[model]
        for name, model in named.items()
        if isinstance(model, str) and model in plugins.models
    }


def data_digests(recipe: Recipe) -> dict[str, str]:
    """SHA-256 over the rows that are trained and tested on, before any noise."""
    out = {}
    for name, source in (("train", recipe.source), ("test", recipe.test)):
        if source is not None:
            limit = recipe.evaluate.limit if name == "test" and recipe.evaluate else None
            read = [row.sample for row in rows(source, recipe, limit) if isinstance(row, Row)]
            out[name] = digest([[s.id, [[m.role, m.content] for m in s.messages]] for s in read])
    return out


def weight_digests(recipe: Recipe, plugins: Plugins) -> dict[str, str]:
    """SHA-256 of each file of the models that ship."""
    return {
        f"{name}/{file.name}": file_digest(file)
        for name, folder in sorted(model_folders(recipe, plugins).items())
        for file in sorted(folder.glob("*"))
        if file.suffix in (".safetensors", ".jinja") or file.name in _LOADED
    }


_LOADED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def prompt_names(recipe: Recipe, plugins: Plugins) -> list[str]:
    """Every template there is, as ``folder/name``."""
    return prompts_of(recipe, plugins).names()


def inputs(base: Mapping[str, Any], recipe: Recipe, plugins: Plugins) -> str:
    """Identifies what all cells stand on: the base recipe, the data, the weights and the prompts that it names."""
    prompts = prompts_of(recipe, plugins)
    named = {name for use in recipe.samples for name in use.item.cls.contract(use.config).prompts}
    return digest(
        {key: value for key, value in base.items() if key not in ("name", "seed", "arms", "lock")},
        data_digests(recipe),
        weight_digests(recipe, plugins),
        {name: prompts.get(name).digest for name in sorted(named)},
    )


def commit(root: Path) -> str:
    """The commit of the checkout, marked where the tree was changed; ``unknown`` outside of one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def device() -> str:
    """The device that local models run on, by name."""
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name(0)})"
    return "cpu"


def optional_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a model's folder, where it has it."""
    file = folder / name
    value: dict[str, Any] | None = read_json(file) if file.is_file() else None
    return value


def families(recipe: Recipe) -> dict[str, str]:
    """The family of each test row: its column ``family``, else what the world says of its id, else nothing."""
    if recipe.test is None or recipe.evaluate is None:
        return {}
    of_id = _family_of_id(recipe.test.use.item.cls.__module__)
    out: dict[str, str] = {}
    for row in rows(recipe.test, recipe, recipe.evaluate.limit):
        if not isinstance(row, Row):
            continue
        family = row.sample.meta.get("family")
        if family is None and of_id is not None:
            family = of_id(row.sample.id)
        if family is not None:
            out[row.sample.id] = str(family)
    return out


def _family_of_id(module: str) -> Any:
    # nfilter_tiny.source belongs to nfilter_tiny.world.
    try:
        world = importlib.import_module(f"{module.partition('.')[0]}.world")
    except ImportError:
        return None
    return getattr(world, "family_of", None)


def facts(recipe: Recipe, plugins: Plugins, commits: Mapping[str, int]) -> dict[str, Any]:
    """Everything that the head of the report says of where its figures come from."""
    folders = model_folders(recipe, plugins)
    folder = next(iter(folders.values()), None)
    return {
        "versions": versions(),
        "data": data_digests(recipe),
        "weights": {
            name: value
            for name, value in weight_digests(recipe, plugins).items()
            if name.endswith(".safetensors")
        },
        "frozen": optional_json(folder, "frozen.json") if folder else None,
        "profile": optional_json(folder, "profile.json") if folder else None,
        "commits": dict(commits),
    }
