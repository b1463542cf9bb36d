"""The commands about plugins: the installed components and their settings, and a skeleton of a new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from nfilter.cli import completion
from nfilter.cli.group import main, plugin_commands
from nfilter.cli.shared import ANY_PATH, console, json_option, load_plugins, plugin_option


def listing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a listing."""
    kind = click.option(
        "--kind",
        metavar="KIND",
        shell_complete=completion.kinds,
        help="Only this kind: stage, backend, trainer, source, exporter, metric, loss, tool, executor, model, prompt, recipe, command or hook.",
    )
    text = click.option(
        "--filter",
        "text",
        default="",
        metavar="TEXT",
        help="Only what has TEXT in its name, origin or description.",
    )
    return kind(text(plugin_option(json_option(command))))


@main.group(
    name="plugins",
    invoke_without_command=True,
    short_help="List the installed stages, models, sources and other plugins.",
)
@listing_options
@click.pass_context
def plugins_group(
    ctx: click.Context, kind: str | None, text: str, files: tuple[Path, ...], as_json: bool
) -> None:
    """List what plugins bring, with origin and load time; `plugins show NAME` prints the settings of one."""
    if ctx.invoked_subcommand is None:
        _list(kind, text, files, as_json=as_json)


@plugins_group.command(name="list")
@listing_options
def plugins_list(kind: str | None, text: str, files: tuple[Path, ...], as_json: bool) -> None:
    """List what plugins bring, with origin and load time."""
    _list(kind, text, files, as_json=as_json)


def _list(kind: str | None, text: str, files: tuple[Path, ...], *, as_json: bool) -> None:
    from nfilter.cli.installed import listing, show_all

    found = listing(load_plugins(files), plugin_commands(), kind=kind, text=text)
    show_all(found, console(), as_json=as_json)


@plugins_group.command(name="show")
@click.argument("name", shell_complete=completion.components)
@plugin_option
@json_option
def plugins_show(name: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Print the description and the settings of a component, with types and defaults."""
    from nfilter.registry.catalogue import show_one

    show_one(load_plugins(files), name, console(), as_json=as_json)


@main.command(name="new-plugin", short_help="Write the skeleton of a plugin.")
@click.argument("name", metavar="NAME")
@click.option(
    "--kind", required=True, help="The kind of component: stage, token-stage, backend, ..."
)
@click.option(
    "--out",
    type=ANY_PATH,
    help="The new folder.  [default: NAME]",
)
def new_plugin(name: str, kind: str, out: Path | None) -> None:
    """Write the skeleton of a plugin: a distribution with a passing test and a recipe that runs it."""
    from nfilter.testing.new_plugin import new_plugin as write

    into = out or Path(name)
    for file in write(name, kind, into):
        click.echo(f"wrote {file}")
    click.echo(f"next: cd {into}, then pip install -e '.[test]', pytest, nfilter run recipe.yaml")
