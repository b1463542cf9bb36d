"""Where a recipe's models and templates are looked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nfilter.api.budget import Budget
from nfilter.api.errors import PluginError
from nfilter.api.stages import Site
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts, shipped_directory
from nfilter.registry.loading import Plugins


def site_of(recipe: Recipe, plugins: Plugins, out: Path | None = None) -> Site:
    """Where the models of a recipe are looked for, and the purse that their calls are paid from together.

    ``out`` is the run's directory, where there is one.
    """
    budget = Budget(recipe.budget.usd) if recipe.budget is not None else Budget()
    state_dir = out / "state" if out is not None else None
    return Site(
        recipe.base_dir,
        plugins.models,
        budget,
        state_dir=state_dir,
        allow_hosts=recipe.allow_hosts,
    )


def prompts_of(recipe: Recipe, plugins: Plugins) -> Prompts:
    """Templates: the recipe's own ``prompts`` folder first, then what plugins bring and what ships.

    A template that two plugins bring is an error when it is asked for. The recipe's own folder may replace any.
    """
    own = recipe.base_dir / "prompts"

    def brought(name: str | None) -> tuple[Path, ...]:
        if name is None:
            return (*plugins.prompt_directories, shipped_directory())
        found = _homes(name, (*plugins.prompt_directories_with(name), shipped_directory()))
        if not found and not (own / f"{name}.jinja").is_file():
            found = _homes(name, plugins.prompt_directories)
        if len(found) > 1:
            raise PluginError(
                f"prompt {name!r} is there twice: in {found[0]} and in {found[1]}; its plugin has to give one of them "
                f"another folder. To replace a template in a recipe, put yours into {own}"
            )
        return found

    return Prompts((own,), brought)


def _homes(name: str, directories: Iterable[Path]) -> tuple[Path, ...]:
    """The directories that hold a template of this name."""
    return tuple(
        directory
        for directory in dict.fromkeys(directories)
        if (directory / f"{name}.jinja").is_file()
    )
