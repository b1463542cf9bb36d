"""Where a recipe's models and templates are searched."""

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
    """Return the site of a recipe's models: the folders that are searched, and the budget that all their calls share.

    ``out`` is the run's directory, None outside a run.
    """
    budget = Budget(recipe.budget.usd) if recipe.budget is not None else Budget()
    state_dir = out / "state" if out is not None else None
    return Site(
        recipe.base_dir,
        plugins.models,
        budget,
        state_dir=state_dir,
        allow_hosts=recipe.allow_hosts,
        backends=plugins.backends,
    )


def prompts_of(recipe: Recipe, plugins: Plugins) -> Prompts:
    """Return the templates: first the recipe's own ``prompts`` folder, then those of plugins, then those that ship.

    Using a template that two plugins provide is an error. The recipe's own folder overrides any template.
    """
    own = recipe.base_dir / "prompts"

    def provided(name: str | None) -> tuple[Path, ...]:
        if name is None:
            return (*plugins.prompt_directories, shipped_directory())
        folders = _folders_with(name, (*plugins.prompt_directories_with(name), shipped_directory()))
        if not folders and not (own / f"{name}.jinja").is_file():
            folders = _folders_with(name, plugins.prompt_directories)
        if len(folders) > 1:
            raise PluginError(
                f"two plugins provide the prompt {name!r}: in {folders[0]} and in {folders[1]}; one of them must use "
                f"another folder name. To override a template in a recipe, put yours into {own}"
            )
        return folders

    return Prompts((own,), provided)


def _folders_with(name: str, directories: Iterable[Path]) -> tuple[Path, ...]:
    """The directories that contain a template of this name."""
    return tuple(
        directory
        for directory in dict.fromkeys(directories)
        if (directory / f"{name}.jinja").is_file()
    )
