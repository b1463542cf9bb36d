"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nfilter.api.errors import NfilterError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from nfilter.recipe.check import Report
    from nfilter.recipe.model import Recipe
    from nfilter.registry.loading import Plugins

EPILOG = """\b
Exit codes: 0 done; 1 another failure; 2 a fault in the recipe, a prompt or the command line;
3 a plugin's fault; 4 the data; 5 a model; 6 nothing left to train on; 7 the run directory; 8 the budget;
130 interrupted (run the same command to resume)."""


class _Commands(click.Group):
    """The verbs below, and those that plugins bring through the entry-point group ``nfilter.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_plugin_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        points = _plugin_commands().get(cmd_name)
        if points is None:
            return None
        from nfilter.api.errors import PluginError

        point = points[0]
        if len(points) > 1:
            named = " and ".join(f"{each.value} of {each.dist.name}" for each in points)
            raise PluginError(f"the command {cmd_name!r} is there twice: {named}; uninstall one")
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
        # A plugin's verb is listed by name alone: its help would cost its import.
        rows = [(name, cmd.get_short_help_str(60)) for name, cmd in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        extra = sorted(set(_plugin_commands()) - set(self.commands))
        if extra:
            with formatter.section("Commands of plugins"):
                formatter.write_text(", ".join(extra))


def _plugin_commands() -> dict[str, Any]:
    from importlib.metadata import entry_points

    found: dict[str, list[Any]] = {}
    for point in entry_points(group="nfilter.commands"):
        found.setdefault(point.name, []).append(point)
    return found


@click.group(cls=_Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nfilter")
def main() -> None:
    """From a noisy fine-tuning dataset to a better adapter, with a reason for every decision."""


def entry(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; errors are said in one place, without a traceback."""
    try:
        result = main.main(args=argv, standalone_mode=False)
    except BrokenPipeError:
        return 1
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _interrupted()
    except (click.ClickException, NfilterError, OSError) as error:
        code, told = _ending(error)
        click.echo(_plain(told), err=True)
        return code
    return result if isinstance(result, int) else 0


def _ending(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and all that is told of it."""
    if isinstance(error, click.ClickException):
        told = io.StringIO()
        error.show(told)
        return error.exit_code, told.getvalue().rstrip("\n")
    if isinstance(error, NfilterError):
        return error.exit_code, f"{_label(error)}{error}"
    place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return 1, f"error: {place}{getattr(error, 'strerror', None) or error}"[:2000]


def _plain(text: str) -> str:
    """An error may hold what a stranger wrote into a file: nothing of it steers the terminal."""
    from nfilter.report.text import plain

    return plain(text)


def _label(error: NfilterError) -> str:
    faults = getattr(error, "faults", ())
    return f"{len(faults)} faults:\n" if len(faults) > 1 else "error: "


def _interrupted() -> int:
    click.echo("interrupted; run the same command to resume", err=True)
    return 130


_recipe = click.argument("recipe", type=click.Path(path_type=Path))
_set = click.option(
    "--set", "assignments", multiple=True, metavar="PATH=VALUE",
    help="Override a value of the recipe, for example train.epochs=1 or samples.3.k=5. May be repeated.",
)  # fmt: skip
_limit = click.option(
    "--limit", type=click.IntRange(min=1), help="Take only the first N rows of the source."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for another program.")
_allow = click.option(
    "--allow-host", "allow", multiple=True, metavar="HOST",
    help="Let the recipe's models send data to HOST. May be repeated; NFILTER_ALLOW_HOSTS=A,B does the same.",
)  # fmt: skip


@main.command()
@_recipe
@_set
@_allow
@_limit
@click.option("--out", type=click.Path(path_type=Path), help="The run directory [runs/NAME].")
@click.option("--seeds", metavar="0,1,2", help="Run once a seed and put the figures together.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Begin anew: what is in the run directory is moved aside, its journal too.",
)
@click.option("--quiet", is_flag=True, help="Say warnings only.")
@_json
def run(
    recipe: Path,
    assignments: tuple[str, ...],
    allow: tuple[str, ...],
    limit: int | None,
    out: Path | None,
    seeds: str | None,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a recipe from its source to an evaluated adapter; go on where an earlier run stopped."""
    from nfilter.engine import launch as launches
    from nfilter.engine import run as engine
    from nfilter.engine.pilot import directory_of
    from nfilter.engine.seeds import run_seeds
    from nfilter.progress import reporter_for
    from nfilter.report.summary import summarise
    from nfilter.store.run_directory import set_aside

    launch = launches.Launch.of()
    plugins, loaded = _sound(recipe, assignments, allow)
    reporter = reporter_for(quiet=quiet or as_json)
    if launch.rank:
        launches.follow(loaded, plugins, launch)
        return
    if warning := launches.single_process_warning():
        reporter.warning(warning)
    target = out or Path("runs") / loaded.name
    every = _seeds(seeds) if seeds is not None else None
    aside = set_aside(target) if fresh else None
    if aside is not None:
        reporter.info(f"{target}: moved to {aside}, its journal too; the run begins anew")
    with launches.leading(loaded, launch):
        if every is not None:
            result = run_seeds(loaded, plugins, target, every, limit=limit, reporter=reporter)
        else:
            tried = [directory_of(target) / "journal.db"]
            result = engine.run(
                loaded, plugins, target, limit=limit, reporter=reporter, lenders=tried
            )
    if as_json:
        click.echo(json.dumps({"directory": str(result.directory), **result.metrics}))
        return
    summarise(result.directory, result.metrics, _console())


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        says = f"whole numbers with commas, like 0,1,2, not {text[:80]!r}"
        raise click.BadParameter(says, param_hint="'--seeds'") from error
    if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        says = f"each seed once, none negative or above 2**63 - 1: {text[:80]!r}"
        raise click.BadParameter(says, param_hint="'--seeds'")
    return seeds


@main.command()
@_recipe
@_set
@_allow
@_json
def check(
    recipe: Path, assignments: tuple[str, ...], allow: tuple[str, ...], as_json: bool
) -> None:
    """Check a recipe without running it: names, settings, prompts, models, data. Loads no model."""
    _, loaded, report = _checked(recipe, assignments, allow, data=True)
    if as_json:
        told = ("faults", "warnings", "facts", "memory")
        click.echo(json.dumps({name: getattr(report, name) for name in told}))
        if report.faults:
            raise SystemExit(4 if report.data_faults == report.faults else 2)
        return
    if report.faults:
        _faults(report)
    for fact in report.facts:
        click.echo(_plain(fact))
    for warning in report.warnings:
        click.echo(f"warning: {_plain(warning)}")
    stages = len(loaded.samples) + len(loaded.tokens)
    noun = "stage" if stages == 1 else "stages"
    number = len(report.warnings)
    warned = f", {number} warning{'s' if number != 1 else ''}" if number else ""
    given = [word for text in assignments for word in ("--set", text)]
    given += [word for host in allow for word in ("--allow-host", host)]
    command = shlex.join(["nfilter", "run", str(recipe), *given])
    click.echo(f"{recipe}: no faults{warned}; `{_plain(command)}` runs {stages} {noun}")


@main.command()
@_recipe
@_set
@_allow
@_limit
@_json
def lint(
    recipe: Path,
    assignments: tuple[str, ...],
    allow: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """Encode the source as it is: lengths, what is cut, masks, tokenizers. No stage runs, nothing is trained."""
    from nfilter.engine.preview import preview
    from nfilter.report.encoding import render

    plugins, loaded = _sound(recipe, assignments, allow)
    with _attributed(plugins, "lint"):
        found = preview(loaded, plugins, limit)
    if as_json:
        click.echo(json.dumps({"figures": found.figures, "warnings": found.warnings}))
        return
    render(found.figures, found.warnings, _console())


@main.command()
@_recipe
@_set
@_allow
@_limit
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A run whose measured speed tells how long it takes (runs/NAME).",
)
@_json
def plan(
    recipe: Path,
    assignments: tuple[str, ...],
    allow: tuple[str, ...],
    limit: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say how many calls, tokens, dollars and hours a run will take, before any call is made."""
    from nfilter.engine import plan as engine
    from nfilter.report.plan import render

    plugins, loaded = _sound(recipe, assignments, allow)
    with _attributed(plugins, "plan"):
        target = out or Path("runs") / loaded.name
        found = engine.plan(loaded, plugins, limit, target)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    render(found, _console())


@main.command()
@_recipe
@_set
@_allow
@click.option(
    "--rows",
    "count",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Rows drawn at random by the recipe's seed.",
)
@click.option(
    "--usd",
    type=click.FloatRange(min=0, min_open=True),
    help="Dollars that the pilot may cost [1, or the recipe's budget if that is less].",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory [runs/NAME-pilot].")
@click.option("--quiet", is_flag=True, help="Show only warnings.")
@_json
def pilot(
    recipe: Path,
    assignments: tuple[str, ...],
    allow: tuple[str, ...],
    count: int,
    usd: float | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try a recipe on a few rows: what it would change, cost and take, and whether its views are worth it."""
    from nfilter.engine import pilot as engine
    from nfilter.progress import reporter_for
    from nfilter.report.pilot import render

    plugins, loaded = _sound(recipe, assignments, allow)
    with _attributed(plugins, "pilot"):
        found = engine.pilot(
            loaded,
            plugins,
            out or engine.directory_of(Path("runs") / loaded.name),
            count=count,
            usd=usd,
            reporter=reporter_for(quiet=quiet or as_json),
        )
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    render(found, _console())


def _checked(
    recipe: Path, assignments: Sequence[str], allow: Sequence[str], *, data: bool
) -> tuple[Plugins, Recipe, Report]:
    from nfilter.engine.lookup import prompts_of, site_of
    from nfilter.recipe import check as checks
    from nfilter.recipe.hosts import granted
    from nfilter.recipe.model import load

    plugins = _plugins()
    with _attributed(plugins, "check"):
        loaded = load(recipe, plugins, assignments, granted(allow) if allow else frozenset())
        report = checks.check(
            loaded, plugins, site_of(loaded, plugins), prompts_of(loaded, plugins), data=data
        )
    return plugins, loaded, report


def _sound(
    recipe: Path, assignments: Sequence[str], allow: Sequence[str]
) -> tuple[Plugins, Recipe]:
    """Plugins and recipe for a verb that works on one; RecipeError with every fault that it has."""
    plugins, loaded, report = _checked(recipe, assignments, allow, data=False)
    if report.faults:
        _faults(report)
    return plugins, loaded


def _faults(report: Report) -> NoReturn:
    """Raise all faults of a check; SourceError where they are all in the data."""
    from nfilter.api.errors import RecipeError, SourceError

    if report.data_faults == report.faults:
        raise SourceError("\n".join(report.faults))
    raise RecipeError(report.faults)


def _plugins() -> Plugins:
    from nfilter.registry.loading import load

    def say(text: str) -> None:
        click.echo(f"note: {text}", err=True)

    return load(say=say)


def _attributed(plugins: Plugins, what: str) -> AbstractContextManager[None]:
    """Around what calls plugins without a run: an exception of theirs is an error that names the plugin."""
    from nfilter.engine.error_attribution import attributed

    return attributed(plugins, what)


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


@main.group(name="plugins", invoke_without_command=True)
@_json
@click.pass_context
def plugins_group(ctx: click.Context, as_json: bool) -> None:
    """List what is installed; `plugins show NAME` tells what one takes."""
    if ctx.invoked_subcommand is None:
        from nfilter.registry.catalogue import show_all

        show_all(_plugins(), _console(), as_json=as_json)


@plugins_group.command(name="list")
@_json
def plugins_list(as_json: bool) -> None:
    """Everything that is registered, and where it comes from."""
    from nfilter.registry.catalogue import show_all

    show_all(_plugins(), _console(), as_json=as_json)


@plugins_group.command(name="show")
@click.argument("name")
@_json
def plugins_show(name: str, as_json: bool) -> None:
    """One plugin: what it does, and its settings with types and defaults."""
    from nfilter.registry.catalogue import show_one

    show_one(_plugins(), name, _console(), as_json=as_json)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the schema to this file.")
@click.option("--markdown", is_flag=True, help="Print a page with all settings instead.")
def schema(out: Path | None, markdown: bool) -> None:
    """Print the JSON Schema of a recipe, with the settings of the installed plugins, for editors and other programs."""
    from nfilter.recipe.reference import reference
    from nfilter.recipe.schema import schema_of, write_schema

    plugins = _plugins()
    with _attributed(plugins, "schema"):
        if out is None:
            page = reference(plugins) if markdown else json.dumps(schema_of(plugins), indent=1)
            click.echo(_plain(page))
            return
        if markdown:
            raise click.UsageError(
                "--out writes the schema; leave --markdown out, or redirect the page: > FILE"
            )
        line = write_schema(plugins, out)
    click.echo(f"wrote {_plain(str(out))}; recipes in its folder begin with: {_plain(line)}")


@main.command()
@click.option(
    "--template",
    help="Which shipped recipe to start from [classes for data of few answers, else robustft].",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    help="Your file; its columns are guessed.",
)
@click.option(
    "--model", help="The model to train: a hub id, a folder, a GGUF file, or a name: smollm2, tiny."
)
@click.option(
    "--test",
    type=click.Path(path_type=Path, exists=True),
    help="Rows to test on: arms are compared on them.",
)
@click.option(
    "--expert", help="A model behind an API that answers and reviews: anthropic/claude-sonnet-4-5."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("recipe.yaml"), show_default=True
)
@click.option("--force", is_flag=True, help="Overwrite the recipe if it is there.")
def init(**given: Any) -> None:
    """Write a recipe that runs, for your data and your model."""
    from nfilter.recipe.init import scaffold

    plugins = _plugins()
    with _attributed(plugins, "init"):
        made = scaffold(plugins, **given)
    for line in made:
        click.echo(line)


@main.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("sample_id", metavar="ID")
@click.option("--full", is_flag=True, help="Do not cut long texts.")
@click.option("--truth", is_flag=True, help="Show the true label too, where it is known.")
@click.option(
    "--tokens",
    is_flag=True,
    help="Show the response token by token: in the loss or out, with scores.",
)
@_json
def explain(
    run_directory: Path, sample_id: str, full: bool, truth: bool, tokens: bool, as_json: bool
) -> None:
    """Everything that happened to one row, kept or dropped. Unreadable rows: line:N."""
    from nfilter.report import explain as report

    found = report.explain(run_directory, sample_id, show_truth=truth, show_tokens=tokens)
    if as_json:
        click.echo(json.dumps(report.as_json(found), ensure_ascii=False))
    else:
        report.render(found, _console(), full=full)


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@_json
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """The figures of several runs side by side."""
    from nfilter.report import compare as report

    table = report.compare(list(runs))
    if as_json:
        click.echo(json.dumps(report.as_json(table), ensure_ascii=False))
    else:
        report.render(table, _console())


@main.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--n", "size", type=click.IntRange(min=2), help="How many rows.  [default: 50]")
@click.option("--seed", type=int, help="Which rows.  [default: 0]")
@click.option("--open", "unblind", is_flag=True, help="Show what the run did to each row too.")
@_json
def audit(
    run_directory: Path, size: int | None, seed: int | None, unblind: bool, as_json: bool
) -> None:
    """Draw rows to check by hand; called again with the answers, say how good the flags are."""
    from nfilter.report import audit as report

    result = report.audit(run_directory, n=size, seed=seed, blind=not unblind)
    if as_json:
        click.echo(json.dumps(report.as_json(result), ensure_ascii=False))
    else:
        report.render(result, _console())


@main.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "name",
    required=True,
    help="messages, trl, axolotl, llamafactory, spans, or a plugin's.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the format."
)
def export(run_directory: Path, name: str, out: Path, settings: tuple[str, ...]) -> None:
    """Write what a run kept for another trainer, with its token masks where it has tokens."""
    from nfilter.engine import export as engine

    pairs = dict(text.partition("=")[::2] for text in settings)
    plugins = _plugins()
    with _attributed(plugins, "export"):
        done = engine.export(run_directory, plugins, name, out, pairs)
    click.echo(f"{out}:")
    for line in done:
        click.echo(f"  {line}")


@main.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    metavar="DIR|hub:OWNER/NAME",
    help="A new folder, or a name on the Hugging Face Hub.",
)
@click.option(
    "--license", "licence", help="The licence of the data, as the hub names it: cc-by-4.0."
)
@click.option(
    "--public", is_flag=True, help="Make new repositories public; they are private otherwise."
)
def push(run_directory: Path, to: str, licence: str | None, *, public: bool) -> None:
    """Hand on the cleaned dataset and the adapter, each with a card that says what was done."""
    from nfilter.engine.push import push as send

    for made in send(run_directory, to, licence=licence, public=public):
        click.echo(f"{made.kind}: {_plain(made.place)} ({', '.join(made.files)})")


@main.command(name="new-plugin")
@click.argument("name", metavar="NAME")
@click.option("--kind", required=True, help="What it brings: stage, token-stage, backend, ...")
@click.option("--out", type=click.Path(path_type=Path), help="The new folder [NAME].")
def new_plugin(name: str, kind: str, out: Path | None) -> None:
    """Write a plugin to start from: a distribution with a test that passes and a recipe that runs it."""
    from nfilter.testing.new_plugin import new_plugin as write

    into = out or Path(name)
    for file in write(name, kind, into):
        click.echo(f"wrote {file}")
    click.echo(f"next: cd {into}, then pip install -e '.[test]', pytest, nfilter run recipe.yaml")


@main.command(name="inject-noise")
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--ratio", type=click.FloatRange(0, 1), required=True, help="The share of rows to make wrong."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--kind", type=click.Choice(["choice", "label", "number", "exact", "spans", "text"]), required=True,
    help="What the answers are.",
)  # fmt: skip
@click.option(
    "--wrong", metavar="COLUMN", help="The column with each row's wrong answer, or a list of them."
)
@_json
def inject_noise(
    data: Path, out: Path, ratio: float, seed: int, kind: str, wrong: str | None, as_json: bool
) -> None:
    """Make a known share of the answers wrong; the true ones go into the column `truth`."""
    from nfilter.recipe.init import inject

    counts = inject(_plugins(), data, out, ratio, seed, kind, wrong)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        click.echo(", ".join(f"{name} {count}" for name, count in counts.items()))


def script() -> None:
    """The console script."""
    sys.exit(entry())


if __name__ == "__main__":
    script()
