"""How long a run will ask the models of this machine, from what was measured when they last answered."""

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
    """What a run measured of a model: ``call`` is seconds per call of this very stage, None where only another one asked it."""

    call: float | None
    tokens_per_second: float


def is_local(recipe: Recipe, model: str) -> bool:
    """Whether a model of the recipe runs on this machine."""
    use = recipe.model(model)
    return use is not None and not isinstance(use.item.cls, Priced)


def described(recipe: Recipe, model: str) -> str:
    """What tells the model of that name from another one: a digest of its entry in the recipe."""
    use = recipe.model(model)
    return "" if use is None else digest(use.dump())


class Times:
    """What the runs in a directory, one of each seed perhaps, measured of the recipe's models."""

    def __init__(self, recipe: Recipe, run_dir: Path | None) -> None:
        self.recipe = recipe
        files = (
            [] if run_dir is None else [run_dir / PACES, *sorted(run_dir.glob(f"seed-*/{PACES}"))]
        )
        self._found: dict[str, Any] = {}
        for file in reversed(files):
            self._found |= paces(file)

    def of(self, stage: str, model: str) -> Measured | None:
        """What is known of a model in a stage; None where nothing was measured, or of another model of that name."""
        own = self._record(self._found.get(stage), model)
        if own is not None:
            return Measured(own["seconds"] / own["calls"], _speed(own))
        others = [each for found in self._found.values() if (each := self._record(found, model))]
        return Measured(None, min(map(_speed, others))) if others else None

    def _record(self, found: Any, model: str) -> Mapping[str, Any] | None:
        mark = described(self.recipe, model)
        names = {model, *(alias for alias, of in self.recipe.aliases.items() if of == model)}
        target = self.recipe.aliases.get(model, model)
        names |= {target, *(alias for alias, of in self.recipe.aliases.items() if of == target)}
        for record in _records(found, names):
            if record.get("of") == mark and record["seconds"] > 0 and record["completion_tokens"]:
                return record
        return None


def _records(found: Any, names: set[str]) -> Iterator[Mapping[str, Any]]:
    if isinstance(found, Mapping):
        yield from (found[name] for name in sorted(names) if isinstance(found.get(name), Mapping))


def _speed(record: Mapping[str, Any]) -> float:
    return float(record["completion_tokens"]) / float(record["seconds"])
