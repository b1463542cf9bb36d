"""Where a recipe's models and templates are looked for."""

from __future__ import annotations

from nfilter.plugins import Plugins
from nfilter.prompts import Prompts, shipped_directory
from nfilter.recipe import Recipe
from nfilter.stages import Site


def site_of(recipe: Recipe, plugins: Plugins) -> Site:
    """Where the models of a recipe are looked for."""
    return Site(recipe.base_dir, plugins.models)


def prompts_of(recipe: Recipe, plugins: Plugins) -> Prompts:
    """Templates: the recipe's own ``prompts`` folder first, then what plugins bring, then what ships."""
    return Prompts((recipe.base_dir / "prompts", *plugins.prompt_directories, shipped_directory()))
