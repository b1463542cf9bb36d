"""Whether what a stage ranks by is there: a view's nll where its model gives log-probabilities, and the like.

What is said of a stage that cannot rank also says what to write in its place, and ``nfilter init`` writes just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nfilter.recipe.model import Recipe
from nfilter.recipe.uses import Use
from nfilter.recipe.yaml_lines import Where


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A stage that has to be written otherwise: where it stands, why, and the items of the list that take its place."""

    where: Where
    why: str
    items: tuple[str, ...]

    @property
    def told(self) -> str:
        """For people."""
        written = " and ".join(f"`- {item}`" for item in self.items)
        return f"{self.why}; write {written} in its place, or name a model that gives them there, {{use: hf, ...}} for one"


def rewrites(recipe: Recipe) -> list[Rewrite]:
    """All stages over samples that need log-probabilities which a model does not give, or that cannot rank."""
    return [*_without_logprobs(recipe), *_unranked(recipe)]


def _without_logprobs(recipe: Recipe) -> Iterator[Rewrite]:
    for use in recipe.samples:
        for need in use.item.cls.contract(use.config).needs:
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
                continue  # who writes it does not say, or nobody does, which is told elsewhere
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
    """Whether a model gives log-probabilities; None where there is no such model, which is said elsewhere."""
    use = recipe.model(model)
    return None if use is None else bool(use.item.cls.abilities(use.config).logprobs)


def _named(recipe: Recipe, model: str) -> str:
    use = recipe.model(model)
    return repr(model) if use is None else f"{model!r} ({use.name})"


def _asked_by(use: Use) -> str:
    needs = use.item.cls.contract(use.config).needs
    return str(needs[0].model) if needs else "expert"


def _written(recipe: Recipe, use: Use, **more: Any) -> str:
    """The stage as the recipe has it, with more settings, on one line."""
    value: Any = recipe.located.value
    for key in use.where:
        value = value[key]
    written = {**value, **more} if isinstance(value, Mapping) else {"use": use.name, **more}
    line: str = yaml.safe_dump(
        written, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return line.strip()
