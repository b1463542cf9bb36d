"""The command ``nfilter``: its group of commands, those of plugins, and exit codes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nfilter.api.addresses import without_secrets
from nfilter.api.errors import NfilterError
from nfilter.cli.shared import plain

EPILOG = """\b
Exit codes: 0 done; 1 another failure; 2 an error in the recipe, a prompt or the command line;
3 a plugin; 4 the data; 5 a model; 6 no rows or tokens left to train on; 7 the run directory; 8 the budget;
130 interrupted (run the same command to resume)."""


SECTIONS = {
    "Prepare": ("init", "check", "lint", "plan", "pilot"),
    "Run and inspect": ("run", "explain", "audit", "compare"),
    "Hand over": ("export", "push"),
    "Other": ("plugins", "new-plugin", "schema", "inject-noise"),
}
"""The commands in the order of use, as ``nfilter --help`` lists them."""


class Commands(click.Group):
    """The commands of nfilter, and those of plugins (entry-point group ``nfilter.commands``)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *plugin_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        points = plugin_commands().get(cmd_name)
        if points is None:
            return None
        from nfilter.api.errors import PluginError

        point = points[0]
        if len(points) > 1:
            named = " and ".join(f"{each.value} of {each.dist.name}" for each in points)
            raise PluginError(
                f"the command {cmd_name!r} is provided twice: {named}; uninstall one distribution"
            )
        try:
            command = point.load()
        except Exception as error:
            raise PluginError(
                f"the command {cmd_name!r} ({point.value}) did not load: {error!r}"
            ) from error
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from nfilter.api.errors import did_you_mean

            near = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"{error.message.rstrip('.')}{near}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.commands)
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([
                    (name.ljust(width), self.commands[name].get_short_help_str(70)) for name in names
                ])  # fmt: skip
        # A plugin's command is listed by name only: its help would need its import.
        extra = sorted(set(plugin_commands()) - set(self.commands))
        if extra:
            with formatter.section("Commands of plugins (nfilter COMMAND --help)"):
                formatter.write_text(", ".join(extra))


def plugin_commands() -> dict[str, Any]:
    """Return the entry points of the plugins' commands, by name."""
    from importlib.metadata import entry_points

    found: dict[str, list[Any]] = {}
    for point in entry_points(group="nfilter.commands"):
        found.setdefault(point.name, []).append(point)
    return found


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nfilter")
def main() -> None:
    """From a noisy fine-tuning dataset to a better adapter, with a reason for every decision.

    Start: nfilter init --data FILE; then check and run the recipe that it writes.
    """


def entry(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; errors are printed without a traceback."""
    try:
        result = main.main(args=argv, standalone_mode=False)
    except BrokenPipeError:
        return 1
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; run the same command to resume", err=True)
        return 130
    except (click.ClickException, NfilterError, OSError) as error:
        code, text = _ending(error)
        click.echo(plain(without_secrets(text)), err=True)
        return code
    return result if isinstance(result, int) else 0


def _ending(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message of an error."""
    if isinstance(error, click.ClickException):
        text = io.StringIO()
        error.show(text)
        return error.exit_code, text.getvalue().rstrip("\n")
    if isinstance(error, NfilterError):
        return error.exit_code, f"{_label(error)}{error}"
    if not (isinstance(error, OSError) and error.filename):
        return 1, f"error: {getattr(error, 'strerror', None) or error}"[:2000]
    from nfilter.api.file_errors import file_advice

    path = Path(os.fsdecode(error.filename))
    return 1, f"error: {path}: {error.strerror or error}; {file_advice(path, error)}"[:2000]


def _label(error: NfilterError) -> str:
    faults = getattr(error, "faults", ())
    return f"{len(faults)} faults:\n" if len(faults) > 1 else "error: "


def script() -> None:
    """The console script."""
    sys.exit(entry())
