"""Where a recipe's models and templates are looked for."""

from __future__ import annotations

from pathlib import Path

from nfilter.errors import PluginError
from nfilter.money import Budget
from nfilter.plugins import Plugins
from nfilter.prompts import Prompts, shipped_directory
from nfilter.recipe import Recipe
from nfilter.stages import Site


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
    """Templates: the recipe's own ``prompts`` folder first, then what plugins bring, then what ships.

    Raises:
        PluginError: when two plugins bring a template of the same name. The recipe's own folder may replace any.
    """
    brought = (*plugins.prompt_directories, shipped_directory())
    homes: dict[str, Path] = {}
    for directory in dict.fromkeys(brought):
        for name in Prompts((directory,)).names():
            if name in homes:
                raise PluginError(
                    f"prompt {name!r} is there twice: in {homes[name]} and in {directory}; its plugin has to give one of them "
                    f"another folder. To replace a template in a recipe, put yours into {recipe.base_dir / 'prompts'}"
                )
            homes[name] = directory
    return Prompts((recipe.base_dir / "prompts", *brought))
