"""The commands that work on a recipe and its data, before or without a run, and ``run``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfilter.cli import completion
from nfilter.cli.group import main
from nfilter.cli.shared import (
    ANY_PATH,
    Asked,
    DataName,
    attributed,
    checked_recipe,
    console,
    host_option,
    json_option,
    limit_option,
    load_plugins,
    plain,
    plugin_option,
    raise_faults,
    recipe_options,
    sound_recipe,
)

if TYPE_CHECKING:
    from nfilter.engine.ranks.place import Place
    from nfilter.engine.ranks.worker import Followed
    from nfilter.engine.result import Result
    from nfilter.engine.run import RunResult


@main.command(short_help="Run a recipe to an evaluated adapter; resume a run.")
@recipe_options
@limit_option
@click.option(
    "--out",
    type=ANY_PATH,
    help="The run directory.  [default: runs/NAME]",
)
@click.option("--seeds", metavar="0,1,2", help="Run once per seed and aggregate the figures.")
@click.option(
    "--fresh",
    is_flag=True,
    help="The run starts from the beginning; the existing run directory is renamed, its journal included.",
)
@click.option(
    "--rank", metavar="K|auto",
    help="This process is rank K of several that share the chunks of stages; auto reads the scheduler's environment.",
)  # fmt: skip
@click.option("--world", type=click.IntRange(min=1), help="The number of ranks.")
@click.option("--quiet", is_flag=True, help="Print only warnings.")
@json_option
def run(
    asked: Asked,
    limit: int | None,
    out: Path | None,
    seeds: str | None,
    fresh: bool,
    rank: str | None,
    world: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a recipe from its source to an evaluated adapter; resume an interrupted run."""
    from nfilter.engine import launch as launches
    from nfilter.engine import run as engine
    from nfilter.engine.executors import execute
    from nfilter.engine.plan_time import pilot_directory
    from nfilter.engine.ranks.place import Place
    from nfilter.engine.ranks.worker import follow
    from nfilter.engine.result import Result
    from nfilter.engine.seeds import run_seeds
    from nfilter.progress import reporter_for
    from nfilter.store.run_directory import set_aside

    launch = launches.Launch.of()
    place = Place.of(rank, world)
    if place.world > 1:
        one = "leave out --rank and --world"
        _refuse_with_ranks(f"--world {place.world}", one, processes=launch.size, seeds=seeds)
        if fresh:
            _refuse_fresh(place.world)
    # The first process shows the one bar of a launch.
    quiet = quiet or as_json
    plugins, loaded = sound_recipe(asked, out, quiet=quiet or launch.rank > 0)
    executor = loaded.executor if rank is None else None
    if executor is not None:
        one = "add --set executor=null"
        _refuse_with_ranks(f"executor {executor.name!r}", one, processes=launch.size, seeds=seeds)
    reporter = reporter_for(quiet=quiet)
    if launch.rank:
        launches.follow(loaded, plugins, launch)
        return
    if warning := launches.single_process_warning():
        reporter.warning(warning)
    target = out or Path("runs") / loaded.name
    tried = [pilot_directory(target) / "journal.db"]
    if place.rank:
        followed = follow(
            loaded, plugins, target, place, limit=limit, reporter=reporter, lenders=tried
        )
        _say_followed(target, place, followed, as_json=as_json)
        return
    every = _seeds(seeds) if seeds is not None else None
    aside = set_aside(target) if fresh else None
    if aside is not None:
        reporter.info(
            f"{target}: renamed to {aside}, its journal included; the run starts from the beginning"
        )
    if executor is not None:
        execute(loaded, target, limit=limit, progress=not quiet, lenders=tried)
        _say_done(Result.open(target), as_json=as_json)
        return
    with launches.leading(loaded, launch):
        if every is not None:
            result = run_seeds(loaded, plugins, target, every, limit=limit, reporter=reporter)
        else:
            result = engine.run(
                loaded, plugins, target,
                limit=limit, reporter=reporter, lenders=tried, place=place,
            )  # fmt: skip
    _say_done(result, as_json=as_json)


def _say_done(result: Result | RunResult, *, as_json: bool) -> None:
    from nfilter.report.summary import summarise

    if as_json:
        click.echo(json.dumps({"directory": str(result.directory), **result.metrics}))
        return
    summarise(result.directory, dict(result.metrics), console())


def _refuse_with_ranks(who: str, remedy: str, *, processes: int, seeds: str | None) -> None:
    from nfilter.api.errors import RecipeError

    if processes > 1:
        raise RecipeError(
            f"{who} shares the chunks of stages, and torchrun or accelerate started {processes} processes for one "
            f"training; use one of the two: {remedy}, or start without torchrun"
        )
    if seeds is not None:
        raise RecipeError(
            f"{who} runs one seed; leave out --seeds, and start one run per seed: --set seed=1 --out runs/seed-1"
        )


def _refuse_fresh(world: int) -> None:
    from nfilter.api.errors import RecipeError

    raise RecipeError(
        f"--fresh would rename the directory in which other ranks already work; leave out --fresh and choose another --out, "
        f"or rename the directory before the {world} ranks start"
    )


def _say_followed(target: Path, place: Place, followed: Followed, *, as_json: bool) -> None:
    if as_json:
        done = {"chunks": followed.chunks, "stages": followed.stages}
        click.echo(json.dumps({"directory": str(target), "rank": place.rank, **done}))
        return
    chunks = f"{followed.chunks} {'chunk' if followed.chunks == 1 else 'chunks'}"
    click.echo(
        plain(f"rank {place.rank} of {place.world}: {chunks} processed; {target} has the results")
    )


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        says = f"integers with commas, like 0,1,2, not {text[:80]!r}"
        raise click.BadParameter(says, param_hint="'--seeds'") from error
    if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        says = f"distinct seeds from 0 to 2**63 - 1, not {text[:80]!r}"
        raise click.BadParameter(says, param_hint="'--seeds'")
    return seeds


@main.command(short_help="Validate a recipe without running it.")
@recipe_options
@click.option(
    "--world",
    type=click.IntRange(min=2),
    help="Also list the stages that this number of ranks share, and why others are not shared.  [default: that of the executor]",
)
@json_option
def check(asked: Asked, world: int | None, as_json: bool) -> None:
    """Check a recipe without running it: names, settings, prompts, models, data. Load no model."""
    plugins, loaded, report = checked_recipe(asked, data=True, quiet=as_json)
    if not report.faults:
        from nfilter.engine.ranks.division import shares, world_of

        with attributed(plugins, "check"):
            number = world or world_of(loaded)
            report.facts.extend(shares(loaded, number) if number > 1 else ())
    if as_json:
        parts = ("faults", "warnings", "facts", "memory")
        click.echo(json.dumps({name: getattr(report, name) for name in parts}))
        if report.faults:
            raise SystemExit(4 if report.data_faults == report.faults else 2)
        return
    if report.faults:
        raise_faults(report)
    for fact in report.facts:
        click.echo(plain(fact))
    for warning in report.warnings:
        click.echo(f"warning: {plain(warning)}")
    stages = len(loaded.samples) + len(loaded.tokens)
    noun = "stage" if stages == 1 else "stages"
    number = len(report.warnings)
    warned = f", {number} warning{'s' if number != 1 else ''}" if number else ""
    command = shlex.join(["nfilter", "run", *asked.words()])
    click.echo(f"{asked.recipe}: no faults{warned}; `{plain(command)}` runs {stages} {noun}")


@main.command(short_help="Show what training would see: lengths, truncation, masks.")
@recipe_options
@limit_option
@json_option
def lint(
    asked: Asked,
    limit: int | None,
    as_json: bool,
) -> None:
    """Encode the source and report lengths, truncation, masks and tokenizers. Run no stage, train nothing."""
    from nfilter.engine.preview import preview
    from nfilter.report.encoding import render

    plugins, loaded = sound_recipe(asked, quiet=as_json)
    with attributed(plugins, "lint"):
        found = preview(loaded, plugins, limit)
    if as_json:
        click.echo(json.dumps({"figures": found.figures, "warnings": found.warnings}))
        return
    render(found.figures, found.warnings, console())


@main.command(short_help="Estimate calls, tokens, dollars and hours; no model is called.")
@recipe_options
@limit_option
@click.option(
    "--out",
    type=ANY_PATH,
    help="A run directory with measured speeds for the estimate.  [default: runs/NAME]",
)
@json_option
def plan(
    asked: Asked,
    limit: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Estimate the calls, tokens, dollars and hours of a run. Call no model."""
    from nfilter.engine import plan as engine
    from nfilter.report.plan import render

    plugins, loaded = sound_recipe(asked, quiet=as_json)
    with attributed(plugins, "plan"):
        target = out or Path("runs") / loaded.name
        found = engine.plan(loaded, plugins, limit, target)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    render(found, console())


@main.command(short_help="Run a recipe on a few rows, and estimate the whole run.")
@recipe_options
@click.option(
    "--rows",
    "count",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="The number of rows, sampled with the recipe's seed.",
)
@click.option(
    "--usd",
    type=click.FloatRange(min=0, min_open=True),
    help="Maximum cost of the pilot in dollars.  [default: 1, or the recipe's budget if lower]",
)
@click.option(
    "--out",
    type=ANY_PATH,
    help="The run directory.  [default: runs/NAME-pilot]",
)
@click.option("--quiet", is_flag=True, help="Print only warnings.")
@json_option
def pilot(
    asked: Asked,
    count: int,
    usd: float | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a recipe on a few rows; estimate its changes, cost, time and the value of its views."""
    from nfilter.engine import pilot as engine
    from nfilter.engine.plan_time import pilot_directory
    from nfilter.progress import reporter_for
    from nfilter.report.pilot import render

    quiet = quiet or as_json
    plugins, loaded = sound_recipe(asked, quiet=quiet)
    with attributed(plugins, "pilot"):
        found = engine.pilot(
            loaded,
            plugins,
            out or pilot_directory(Path("runs") / loaded.name),
            count=count,
            usd=usd,
            reporter=reporter_for(quiet=quiet),
        )
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    render(found, console())


@main.command()
@click.option(
    "--template",
    shell_complete=completion.recipe_templates,
    help="The shipped recipe to copy.  [default: classes for few distinct answers, else robustft]",
)
@click.option(
    "--data",
    type=DataName(),
    help="The dataset, a path or an address; its columns are inferred.",
)
@click.option(
    "--model",
    help="The model to train: a hub id, a folder, a GGUF file, or a short name (smollm2, tiny).",
)
@click.option(
    "--test",
    type=DataName(),
    help="The test rows, on which the arms are compared.",
)
@click.option(
    "--expert", help="An API model that answers and reviews, such as anthropic/claude-sonnet-4-5."
)
@click.option(
    "--out",
    type=ANY_PATH,
    default=Path("recipe.yaml"),
    show_default=True,
)
@click.option("--force", is_flag=True, help="Overwrite an existing recipe.")
@host_option
@plugin_option
def init(files: tuple[Path, ...], hosts: tuple[str, ...], **given: Any) -> None:
    """Write a recipe for your data and your model."""
    from nfilter.progress import bytes_on, reporter_for
    from nfilter.recipe.hosts import granted
    from nfilter.recipe.init import scaffold

    plugins = load_plugins(files)
    with attributed(plugins, "init"):
        made = scaffold(
            plugins, **given, hosts=sorted(granted(hosts, {})), progress=bytes_on(reporter_for)
        )
    for line in made:
        click.echo(line)
    if files:
        flags = shlex.join(word for file in files for word in ("--plugin", str(file)))
        click.echo(f"where the recipe names something of a file, both commands need {plain(flags)}")


@main.command(short_help="Print the JSON Schema of a recipe, for editors.")
@click.option("--out", type=ANY_PATH, help="Write the schema to this file.")
@click.option("--markdown", is_flag=True, help="Print a page with all settings instead.")
@plugin_option
def schema(out: Path | None, markdown: bool, files: tuple[Path, ...]) -> None:
    """Print the JSON Schema of a recipe, with the settings of the installed plugins, for editors and other programs."""
    from nfilter.recipe.reference import reference
    from nfilter.recipe.schema import schema_of, write_schema

    plugins = load_plugins(files)
    with attributed(plugins, "schema"):
        if out is None:
            page = reference(plugins) if markdown else json.dumps(schema_of(plugins), indent=1)
            click.echo(plain(page))
            return
        if markdown:
            raise click.UsageError(
                "--out writes the schema; leave --markdown out, or redirect the page: > FILE"
            )
        line = write_schema(plugins, out)
    click.echo(f"wrote {plain(str(out))}; recipes in its folder begin with: {plain(line)}")


@main.command(name="inject-noise", short_help="Make a known share of the answers wrong, for tests.")
@click.argument("data", type=DataName())
@click.argument("out", type=ANY_PATH)
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1),
    required=True,
    help="The fraction of rows with a wrong answer.",
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--kind", type=click.Choice(["choice", "label", "number", "exact", "spans", "text", "preference"]), required=True,
    help="The kind of the answers.",
)  # fmt: skip
@click.option(
    "--wrong",
    metavar="COLUMN",
    help="The column with the wrong answer of each row, or a list of wrong answers.",
)
@host_option
@plugin_option
@json_option
def inject_noise(
    data: Path | str,
    out: Path,
    ratio: float,
    seed: int,
    kind: str,
    wrong: str | None,
    hosts: tuple[str, ...],
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Replace a fraction of the answers by wrong ones; the true answers are in the column `truth`.

    With --kind preference, a fraction of the pairs is flipped: chosen and rejected are exchanged.
    """
    from nfilter.progress import bytes_on, reporter_for
    from nfilter.recipe.hosts import granted
    from nfilter.recipe.init import inject

    counts = inject(
        load_plugins(files), data, out, ratio, seed, kind, wrong,
        hosts=granted(hosts, {}), progress=bytes_on(lambda: reporter_for(quiet=as_json)),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(counts))
    else:
        click.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
