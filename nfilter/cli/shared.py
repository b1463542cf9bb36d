"""Options and steps that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from nfilter.recipe.checking import Report
    from nfilter.recipe.model import Recipe
    from nfilter.registry.loading import Plugins

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="PATH=VALUE",
    help="A value that replaces the recipe's, such as train.epochs=1 or samples.3.k=5. Repeatable.",
)  # fmt: skip
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="Read only the first N rows of the source."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for another program."
)
allow_option = click.option(
    "--allow-host", "allow", multiple=True, metavar="HOST",
    help="A host to which the recipe's models may send data. Repeatable; same as NFILTER_ALLOW_HOSTS=A,B.",
)  # fmt: skip


def plain(text: str) -> str:
    """Return text without control characters: an error may quote text from a file."""
    from nfilter.report.text import plain

    return plain(text)


def checked_recipe(
    recipe: Path, assignments: Sequence[str], allow: Sequence[str], *, data: bool
) -> tuple[Plugins, Recipe, Report]:
    """Return the plugins, the recipe and the report of its check; ``data`` also checks the data."""
    from nfilter.engine.lookup import prompts_of, site_of
    from nfilter.recipe import check as checks
    from nfilter.recipe.hosts import granted
    from nfilter.recipe.model import load

    plugins = load_plugins()
    with attributed(plugins, "check"):
        loaded = load(recipe, plugins, assignments, granted(allow) if allow else frozenset())
        report = checks.check(
            loaded, plugins, site_of(loaded, plugins), prompts_of(loaded, plugins), data=data
        )
    return plugins, loaded, report


def sound_recipe(
    recipe: Path, assignments: Sequence[str], allow: Sequence[str]
) -> tuple[Plugins, Recipe]:
    """Return the plugins and the recipe; raise RecipeError with all faults of the recipe."""
    plugins, loaded, report = checked_recipe(recipe, assignments, allow, data=False)
    if report.faults:
        raise_faults(report)
    return plugins, loaded


def raise_faults(report: Report) -> NoReturn:
    """Raise all faults of a check: SourceError if all are in the data, else RecipeError."""
    from nfilter.api.errors import RecipeError, SourceError

    if report.data_faults == report.faults:
        raise SourceError("\n".join(report.faults))
    raise RecipeError(report.faults)


def load_plugins() -> Plugins:
    """Return the installed plugins; notes about them are printed to stderr."""
    from nfilter.registry.loading import load

    def say(text: str) -> None:
        click.echo(f"note: {text}", err=True)

    return load(say=say)


def attributed(plugins: Plugins, what: str) -> AbstractContextManager[None]:
    """Turn an exception of a plugin outside a run into an error that names the plugin."""
    from nfilter.engine.error_attribution import attributed

    return attributed(plugins, what)


def console() -> Console:
    """Return a console that writes to stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)
