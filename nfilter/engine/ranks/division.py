"""Which stages are shared by several ranks, which run on rank 0 alone and why, and what all ranks must have equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from nfilter.api.capabilities import Priced
from nfilter.engine.ingest import Limit
from nfilter.engine.lock import named_by
from nfilter.engine.pipeline import numbered, stage_models
from nfilter.models.pool import ModelPool
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.recipe.uses import Use, stage_tools
from nfilter.registry.contracts import contract_of
from nfilter.store.artefacts import differing, part_digests
from nfilter.store.review import REVIEW
from nfilter.store.run_directory import REVIEWED
from nfilter.store.seals import sealed


def alone(recipe: Recipe, use: Use) -> str | None:
    """Return why a stage runs in one process, as words after "because"; None if several processes share its chunks.

    A call that costs money is made by rank 0: one journal then has every paid answer and one budget every dollar.
    """
    contract = contract_of(use.item.cls, use.config)
    if contract.one_process:
        return contract.one_process
    for tool in stage_tools(use, recipe.plugins):
        if tool.item.cls.cost == "paid":
            return f"tool {tool.item.name} costs money"
    for name in stage_models(recipe, use):
        model = recipe.model(name)
        if model is None or not isinstance(model.item.cls, Priced):
            continue
        price = model.item.cls.price(model.config)
        if price is None:
            return f"the price of model {name!r} is unknown"
        if price.prompt or price.completion:
            return f"model {name!r} costs money"
    return None


def world_of(recipe: Recipe) -> int:
    """Return the number of ranks that the recipe's executor starts; 1 without one."""
    use = recipe.executor
    return 1 if use is None else int(use.item.cls.workers(use.config))


def shares(recipe: Recipe, world: int) -> Iterator[str]:
    """Yield one line per stage: whether ``world`` ranks share its chunks."""
    first = len(recipe.samples) + 2
    for each in (*numbered(recipe.samples, 1), *numbered(recipe.tokens, first)):
        reason = alone(recipe, each.use)
        how = f"shared by {world} ranks" if reason is None else f"on rank 0 alone, because {reason}"
        yield f"{each.label}: {how}"


def must_be_same(
    recipe: Recipe, prompts: Prompts, pool: ModelPool, run: Path, limit: Limit
) -> Mapping[str, str]:
    """Return one digest of everything that decides the results of a run, by name."""
    reviews = run / REVIEW
    return part_digests(
        {
            "recipe": recipe.dump(),
            "limit": limit if limit is None or isinstance(limit, int) else list(limit.places),
            REVIEWED: list(sealed(reviews)) if reviews.is_file() else None,
            **named_by(recipe, prompts, pool),
        }
    )


def other_parts(offered: Mapping[str, str], own: Mapping[str, str], *, in_progress: bool) -> str:
    """Return the names of the digests that differ between two ranks, joined by commas; empty if they fit together.

    People may decide about rows during a run, which reads their decisions when it starts.
    """
    ignored = {REVIEWED} if in_progress else set()
    mine, theirs = (
        {name: value for name, value in each.items() if name not in ignored}
        for each in (own, offered)
    )
    return differing(theirs, mine)
