"""The commands that read a finished run: explain, compare, audit, export, push."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import click

from nfilter.api.file_errors import accessing
from nfilter.cli import completion
from nfilter.cli.group import main
from nfilter.cli.shared import (
    ANY_PATH,
    attributed,
    console,
    json_option,
    load_plugins,
    plain,
    plugin_option,
)

run_argument = click.argument(
    "run_directory", metavar="RUN", type=ANY_PATH, shell_complete=completion.runs
)


@main.command(short_help="Print what happened to one row, and why.")
@run_argument
@click.argument("sample_id", metavar="ID")
@click.option("--full", is_flag=True, help="Print long texts in full.")
@click.option("--truth", is_flag=True, help="Print the true label, if it is known.")
@click.option(
    "--tokens",
    is_flag=True,
    help="Print each response token with its scores and whether it is in the loss.",
)
@json_option
def explain(
    run_directory: Path, sample_id: str, full: bool, truth: bool, tokens: bool, as_json: bool
) -> None:
    """Print the decisions about one row, kept or dropped. ID of an unreadable row: line:N."""
    from nfilter.report import explain as report

    with accessing(run_directory):
        found = report.explain(run_directory, sample_id, show_truth=truth, show_tokens=tokens)
    if as_json:
        click.echo(json.dumps(report.as_json(found), ensure_ascii=False))
    else:
        report.render(found, console(), full=full)


@main.command(short_help="Print the figures of several runs side by side.")
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN...",
    type=ANY_PATH,
    shell_complete=completion.runs,
)
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Print the figures of several runs side by side."""
    from nfilter.report import compare as report

    with ExitStack() as accessed:
        for run in runs:
            accessed.enter_context(accessing(run))
        table = report.compare(list(runs))
    if as_json:
        click.echo(json.dumps(report.as_json(table), ensure_ascii=False))
    else:
        report.render(table, console())


@main.command(short_help="Draw rows to check by hand; estimate how good the flags are.")
@run_argument
@click.option(
    "--n",
    "size",
    type=click.IntRange(min=2),
    help="The number of rows, in all: more than were drawn before adds rows.  [default: 50]",
)
@click.option("--seed", type=int, help="The seed of the sample of rows.  [default: 0]")
@click.option("--open", "unblind", is_flag=True, help="Show the run's decision about each row.")
@json_option
def audit(
    run_directory: Path, size: int | None, seed: int | None, unblind: bool, as_json: bool
) -> None:
    """Sample rows to check by hand; with the answers filled in, estimate precision and recall of the flags."""
    from nfilter.report import audit as report

    with accessing(run_directory):
        result = report.audit(run_directory, n=size, seed=seed, blind=not unblind)
    if as_json:
        click.echo(json.dumps(report.as_json(result), ensure_ascii=False))
    else:
        report.render(result, console())


@main.command(short_help="Write the cleaned rows for another trainer.")
@run_argument
@click.option(
    "--format",
    "name",
    shell_complete=completion.formats,
    required=True,
    help="messages, trl, trl_dpo, axolotl, llamafactory, swift, spans, or an exporter of a plugin.",
)
@click.option("--out", required=True, type=ANY_PATH, help="A new folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the format."
)
@plugin_option
def export(
    run_directory: Path, name: str, out: Path, settings: tuple[str, ...], files: tuple[Path, ...]
) -> None:
    """Write the cleaned rows of a run for another trainer, with token masks if the run has token stages."""
    from nfilter.engine import export as engine
    from nfilter.recipe.file_hints import FileHints
    from nfilter.registry.given_files import given_files

    pairs = dict(text.partition("=")[::2] for text in settings)
    given = given_files(files)
    plugins = load_plugins(given, FileHints(run=run_directory, files=given))
    with attributed(plugins, "export"), accessing(run_directory):
        done = engine.export(run_directory, plugins, name, out, pairs)
    click.echo(f"{out}:")
    for line in done:
        click.echo(f"  {line}")


@main.command(short_help="Publish the cleaned dataset and the adapter, with cards.")
@run_argument
@click.option(
    "--to",
    required=True,
    metavar="DIR|hub:OWNER/NAME",
    help="A new folder, or a repository of the Hugging Face Hub.",
)
@click.option(
    "--license",
    "licence",
    help="The license of the data by its name on the hub, such as cc-by-4.0.",
)
@click.option("--public", is_flag=True, help="New repositories are public; default: private.")
def push(run_directory: Path, to: str, licence: str | None, *, public: bool) -> None:
    """Publish the cleaned dataset and the adapter, each with a card that describes the run."""
    from nfilter.engine.push import push as send

    with accessing(run_directory):
        sent = send(run_directory, to, licence=licence, public=public)
    for made in sent:
        click.echo(f"{made.kind}: {plain(made.place)} ({', '.join(made.files)})")
