"""Stages that rank by a measure that does not exist, such as the nll of a view whose model gives no log-probabilities.

Each has the lines to write in its place; ``nfilter init`` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nfilter.recipe.model import Recipe
from nfilter.recipe.uses import Use, stage_needs
from nfilter.recipe.yaml_lines import Where


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A stage that must be replaced: its path, the reason, and the list items that take its place."""

    where: Where
    why: str
    items: tuple[str, ...]

    @property
    def message(self) -> str:
        """The reason, and what to write."""
        written = " and ".join(f"`- {item}`" for item in self.items)
        return f"{self.why}; write {written} in its place, or name a model that gives them there, {{use: hf, ...}} for one"


def rewrites(recipe: Recipe) -> list[Rewrite]:
    """Return all sample stages that need log-probabilities that their model does not give, or whose measure does not exist."""
    return [*_without_logprobs(recipe), *_unranked(recipe)]


def _without_logprobs(recipe: Recipe) -> Iterator[Rewrite]:
    for use in recipe.samples:
        for need in stage_needs(use):
            given = _gives(recipe, need.model)
            if need.logprobs and given is False and "logprobs" in use.item.cls.Config.model_fields:
                yield Rewrite(
                    use.where,
                    f"{use.name} needs log-probabilities of what was generated, and {_named(recipe, need.model)} gives none",
                    (_written(recipe, use, logprobs=False),),
                )


def _unranked(recipe: Recipe) -> Iterator[Rewrite]:
    measured: dict[str, tuple[Use, Mapping[str, str | None]]] = {}
    for use in recipe.samples:
        contract = use.item.cls.contract(use.config)
        for rank in contract.ranks:
            if rank.view not in measured:
                continue  # its writer declares no measures, or no stage writes it, which is another fault
            writer, measures = measured[rank.view]
            model = measures.get(rank.measure)
            if rank.measure in measures and (model is None or _gives(recipe, model) is not False):
                continue
            named = model or _asked_by(writer)
            yield Rewrite(
                use.where,
                f"{use.name} ranks by the {rank.measure} of {rank.view!r}, and {writer.name} has none to give"
                + (
                    f" with {_named(recipe, model)}, which gives no log-probabilities"
                    if model
                    else ""
                ),
                tuple(item.replace("MODEL", named) for item in rank.instead),
            )
        for view in contract.writes:
            measured.pop(view, None)
            if view in contract.measures:
                measured[view] = (use, contract.measures[view])


def _gives(recipe: Recipe, model: str) -> bool | None:
    """Return whether a model gives log-probabilities; None where there is no such model, which is another fault."""
    use = recipe.model(model)
    return None if use is None else bool(use.item.cls.abilities(use.config).logprobs)


def _named(recipe: Recipe, model: str) -> str:
    use = recipe.model(model)
    return repr(model) if use is None else f"{model!r} ({use.name})"


def _asked_by(use: Use) -> str:
    needs = stage_needs(use)
    return str(needs[0].model) if needs else "expert"


def _written(recipe: Recipe, use: Use, **more: Any) -> str:
    """Return the stage as written in the recipe, with more settings, on one line."""
    value: Any = recipe.document.value
    for key in use.where:
        value = value[key]
    written = {**value, **more} if isinstance(value, Mapping) else {"use": use.name, **more}
    line: str = yaml.safe_dump(
        written, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return line.strip()
