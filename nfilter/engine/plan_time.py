"""Estimate the time of calls to local models from the measurements of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter.api.capabilities import Priced
from nfilter.models.pace import PACES, paces
from nfilter.recipe.model import Recipe
from nfilter.store.files import digest


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured speed of a model. ``call`` is seconds per call of the same stage; None if only other stages called it."""

    call: float | None
    tokens_per_second: float


def pilot_directory(target: Path) -> Path:
    """Return the run directory of the pilot for a run in ``target``."""
    return target.with_name(f"{target.name}-pilot")


def is_local(recipe: Recipe, model: str) -> bool:
    """Whether a model of the recipe runs on this machine."""
    use = recipe.model(model)
    return use is not None and not isinstance(use.item.cls, Priced)


def model_digest(recipe: Recipe, model: str) -> str:
    """Return a digest of a model's entry in the recipe, which distinguishes it from another model of the same name."""
    use = recipe.model(model)
    return "" if use is None else digest(use.dump())


class Times:
    """The measured speeds of the recipe's models, from the run in a directory, its seeds and its pilot."""

    def __init__(self, recipe: Recipe, run_dir: Path | None) -> None:
        self.recipe = recipe
        files = [] if run_dir is None else [
            run_dir / PACES, *sorted(run_dir.glob(f"seed-*/{PACES}")), pilot_directory(run_dir) / PACES,
        ]  # fmt: skip
        self._paces: dict[str, Any] = {}
        for file in reversed(files):
            self._paces |= paces(file)

    def of(self, stage: str, model: str) -> Measured | None:
        """Return the measured speed of a model in a stage; None if it was not measured."""
        own = self._record(self._paces.get(stage), model)
        if own is not None:
            return Measured(own["seconds"] / own["calls"], _speed(own))
        others = [each for stage in self._paces.values() if (each := self._record(stage, model))]
        return Measured(None, min(map(_speed, others))) if others else None

    def _record(self, records: Any, model: str) -> Mapping[str, Any] | None:
        """The first record of this model, under its name or an alias."""
        mark = model_digest(self.recipe, model)
        names = {model, *(alias for alias, of in self.recipe.aliases.items() if of == model)}
        target = self.recipe.aliases.get(model, model)
        names |= {target, *(alias for alias, of in self.recipe.aliases.items() if of == target)}
        for record in _named(records, names):
            if record.get("of") == mark and record["seconds"] > 0 and record["completion_tokens"]:
                return record
        return None


def _named(records: Any, names: set[str]) -> Iterator[Mapping[str, Any]]:
    if isinstance(records, Mapping):
        yield from (
            records[name] for name in sorted(names) if isinstance(records.get(name), Mapping)
        )


def _speed(record: Mapping[str, Any]) -> float:
    return float(record["completion_tokens"]) / float(record["seconds"])
