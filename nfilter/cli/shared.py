"""Options and steps that several commands share."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nfilter.api.addresses import is_address

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from nfilter.recipe.checking import Report
    from nfilter.recipe.model import Recipe
    from nfilter.registry.given_files import GivenFile
    from nfilter.registry.loading import Plugins

ANY_PATH = click.Path(path_type=Path, readable=False)
"""A path as it was typed. The command itself says what is wrong with it, and what to type."""

limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="Read only the first N rows of the source."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for another program."
)
plugin_option = click.option(
    "--plugin", "files", multiple=True, metavar="FILE", type=ANY_PATH,
    help="A Python file with a plugin that is not installed; its code runs. Repeatable.",
)  # fmt: skip
_RECIPE_OPTIONS = (
    click.argument("recipe", type=ANY_PATH),
    click.option(
        "--set", "assignments", multiple=True, metavar="PATH=VALUE",
        help="A value that replaces the recipe's, such as train.epochs=1 or samples.3.k=5. Repeatable.",
    ),
    click.option(
        "--allow-host", "hosts", multiple=True, metavar="HOST",
        help="A host to which the recipe's models may send data, and from which its sources may read. Repeatable; same as NFILTER_ALLOW_HOSTS=A,B.",
    ),
    click.option(
        "--allow", "allow", multiple=True, metavar="WHAT",
        help="What no recipe can allow: programs, which tools may run in a sandbox. Same as NFILTER_ALLOW_PROGRAMS=1.",
    ),
    plugin_option,
    click.option(
        "--recipe-plugins", is_flag=True,
        help="Load every .py file of the folder plugins/ beside the recipe as with --plugin.",
    ),
)  # fmt: skip


host_option = click.option(
    "--allow-host", "hosts", multiple=True, metavar="HOST",
    help="A host to which the address of data may redirect. Repeatable; same as NFILTER_ALLOW_HOSTS=A,B.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """The recipe that a command was given, and the options that are about it: the values of ``recipe_options``."""

    recipe: Path
    assignments: tuple[str, ...]
    hosts: tuple[str, ...]
    allow: tuple[str, ...]
    files: tuple[Path, ...]
    recipe_plugins: bool

    def words(self) -> list[str]:
        """Return the words of a command line that ask for the same."""
        return [
            str(self.recipe),
            *(word for text in self.assignments for word in ("--set", text)),
            *(word for host in self.hosts for word in ("--allow-host", host)),
            *(word for what in self.allow for word in ("--allow", what)),
            *(word for file in self.files for word in ("--plugin", str(file))),
            *(["--recipe-plugins"] if self.recipe_plugins else []),
        ]


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument RECIPE and the options of all commands that read one; the command receives them as one ``Asked``."""

    @wraps(command)
    def wrapped(**given: Any) -> None:
        names = [field.name for field in fields(Asked)]
        command(Asked(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_RECIPE_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


class PresentPath(click.ParamType[Path]):
    """The path of a file or folder that exists and may be read; the error says what to do if it may not."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from nfilter.api.file_errors import file_advice

        path = Path(value)
        try:
            path.stat()
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        except PermissionError as error:
            self.fail(f"{path}: {error.strerror}; {file_advice(path, error)}", param, ctx)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            self.fail(f"{path}: {why}; give the path of a file that exists", param, ctx)
        return path


class DataName(click.ParamType[Path | str]):
    """A path as of ``PresentPath``, or an address, which stays text."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        if isinstance(value, str) and is_address(value):
            return value
        return PresentPath().convert(value, param, ctx)


def plain(text: str) -> str:
    """Return text without control characters: an error may quote text from a file."""
    from nfilter.report.text import plain

    return plain(text)


def checked_recipe(
    asked: Asked, *, data: bool, run: Path | None = None, quiet: bool = False
) -> tuple[Plugins, Recipe, Report]:
    """Return the plugins, the recipe and the report of its check.

    Args:
        asked: The recipe and its options.
        data: Whether to check the data too.
        run: The run directory, if another one than runs/NAME.
        quiet: Whether no progress is shown where data is copied from another machine.
    """
    from nfilter.engine.lookup import prompts_of, site_of
    from nfilter.progress import bytes_on, reporter_for
    from nfilter.recipe import check as checks
    from nfilter.recipe.file_hints import FileHints
    from nfilter.recipe.hosts import granted
    from nfilter.recipe.model import load
    from nfilter.registry.given_files import given_files, recipe_files

    files = given_files(asked.files)
    if asked.recipe_plugins:
        files += recipe_files(asked.recipe)
    plugins = load_plugins(files, FileHints(asked.recipe, run, files))
    hosts = granted(asked.hosts) if asked.hosts else frozenset()
    with attributed(plugins, "check"):
        loaded = load(asked.recipe, plugins, asked.assignments, hosts, asked.allow)
        report = checks.check(
            loaded, plugins, site_of(loaded, plugins), prompts_of(loaded, plugins),
            data=data, progress=bytes_on(lambda: reporter_for(quiet=quiet)),
        )  # fmt: skip
    return plugins, loaded, report


def sound_recipe(
    asked: Asked, run: Path | None = None, *, quiet: bool = False
) -> tuple[Plugins, Recipe]:
    """Return the plugins and the recipe; raise RecipeError with all faults of the recipe."""
    plugins, loaded, report = checked_recipe(asked, data=False, run=run, quiet=quiet)
    if report.faults:
        raise_faults(report)
    return plugins, loaded


def raise_faults(report: Report) -> NoReturn:
    """Raise all faults of a check: SourceError if all are in the data, else RecipeError."""
    from nfilter.api.errors import RecipeError, SourceError

    if report.data_faults == report.faults:
        raise SourceError("\n".join(report.faults))
    raise RecipeError(report.faults)


def load_plugins(
    files: Iterable[Path | GivenFile] = (), hints: Callable[[str], Iterable[str]] | None = None
) -> Plugins:
    """Return the installed plugins and those in ``files``; notes about them are printed to stderr.

    ``hints`` says where else an unknown name may come from.
    """
    from nfilter.registry.given_files import GivenFile, given_files
    from nfilter.registry.loading import load

    def say(text: str) -> None:
        click.echo(f"note: {text}", err=True)

    read = [
        each
        for file in files
        for each in ((file,) if isinstance(file, GivenFile) else given_files([file]))
    ]
    return load(files=read, hints=hints, say=say)


def attributed(plugins: Plugins, what: str) -> AbstractContextManager[None]:
    """Turn an exception of a plugin outside a run into an error that names the plugin."""
    from nfilter.engine.error_attribution import attributed

    return attributed(plugins, what)


def console() -> Console:
    """Return a console that writes to stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)
