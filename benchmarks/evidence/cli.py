"""The command: plan, run what is missing, write the report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.evidence import provenance
from benchmarks.evidence.cells import Cells, Keeper, commits_of
from benchmarks.evidence.command import add_keep, go, numbers, show_plan
from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.page import page
from benchmarks.evidence.plan import Cell, Plan, Scope, plan
from benchmarks.evidence.plots import draw
from benchmarks.evidence.recipes import base_value, recipe_of, write_recipe
from benchmarks.evidence.runner import Runner, recipe_digest
from nfilter.api.errors import NfilterError
from nfilter.recipe.model import Recipe
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import Plugins, load
from nfilter.store.files import publishing

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "nfilter" / "recipes"
WHOLE = Scope()


@dataclass(frozen=True)
class Setting:
    """The inputs of a run of this command."""

    plan: Plan
    cells: Cells
    base: Mapping[str, Any]
    recipe: Recipe
    plugins: Plugins


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    out = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    out.add_argument(
        "--out", type=Path, default=Path("runs/evidence"), help="where runs and figures are kept"
    )
    out.add_argument(
        "--results",
        type=Path,
        help="the report to write (OUT/results.md); plots go beside it, in results/",
    )
    add_keep(out)
    out.add_argument(
        "--quick", action="store_true", help="seed 0, 50%% noise, main table and detection"
    )
    out.add_argument(
        "--render", action="store_true", help="run nothing, write the report from what there is"
    )
    out.add_argument(
        "--plan", action="store_true", help="run nothing, list the cells that would run"
    )
    out.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes of one thread each (2); 0 runs in this one",
    )
    out.add_argument("--seeds", help="instead of 0,1,2")
    out.add_argument("--noises", help="instead of uniform,own")
    out.add_argument("--percents", help="instead of 30,50,70")
    out.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="LINE",
        help="only these lines, with what they need",
    )
    out.add_argument(
        "--recipe", type=Path, default=RECIPES / "quickstart.yaml", help="the base recipe"
    )
    out.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        help="change a value of the base recipe",
    )
    return out


def scope_of(options: argparse.Namespace) -> Scope:
    """Seeds, levels and kinds of noise as asked for."""
    start = Scope.small() if options.quick else WHOLE
    noises: Any = start.noises if options.noises is None else tuple(options.noises.split(","))
    if not set(noises) <= set(WHOLE.noises):
        raise SystemExit(f"--noises {options.noises}: one or more of {','.join(WHOLE.noises)}")
    return Scope(
        numbers(options.seeds, start.seeds),
        numbers(options.percents, start.percents),
        noises,
        start.quick,
    )


def prepare(options: argparse.Namespace) -> Setting:
    """Read the base recipe and plan.

    Raises:
        NfilterError: when the base recipe is not one that runs.
    """
    plugins = load()
    base = base_value(options.recipe, options.set)
    whole = Cell("base", "vanilla", "shared", "none", 0, 0, tuple(base["samples"]))
    file = options.out / "base.yaml"
    write_recipe({**recipe_of(base, whole), "name": "base"}, file)
    recipe = load_recipe(file, plugins)
    made = plan(
        scope_of(options),
        base,
        base_value(RECIPES / "robustft-official.yaml"),
        provenance.prompt_names(recipe, plugins),
    )
    recipes = {cell.key: recipe_digest(base, cell) for cell in made.cells}
    inputs = provenance.inputs(base, recipe, plugins)
    cells = Cells.opened(options.out, inputs, recipes, options.keep)
    return Setting(made, cells, base, recipe, plugins)


def chosen(made: Plan, only: Sequence[str]) -> list[Cell]:
    """The cells to run: all, or those of some lines with those that they stand on."""
    if not only:
        return made.cells
    by_key = {cell.key: cell for cell in made.cells}
    wanted = {key for (name, *_), key in made.of.items() if name in only}
    wanted |= set(made.detection.values()) if "detection" in only else set()
    while more := {need for key in wanted for need in by_key[key].after} - wanted:
        wanted |= more
    return [cell for cell in made.cells if cell.key in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every cell has figures, 1 if some failed, 130 if it was interrupted."""
    options = parser().parse_args(arguments)
    try:
        setting = prepare(options)
    except NfilterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    todo = chosen(setting.plan, options.only)
    if options.plan:
        show_plan(setting.cells, todo, lenders(todo))
        return 0
    code = 0
    keeper = Keeper(setting.cells)
    if not options.render:
        make = partial(Runner, setting.cells, setting.base, provenance.commit(ROOT))
        where = provenance.device()
        code = go(setting.cells, todo, lenders(todo), make, options.workers, keeper, where)
    report = write(options, setting)
    print(report)
    return code


def lenders(cells: Sequence[Cell]) -> set[str]:
    """The cells whose answers others use."""
    return {key for cell in cells for key in cell.lenders}


def write(options: argparse.Namespace, setting: Setting) -> Path:
    """Write the report and its plots from the cells that there are."""
    evidence = Evidence(setting.plan, setting.cells)
    report: Path = options.results or options.out / "results.md"
    folder = report.parent / report.stem
    try:
        drawn = draw(evidence, folder)
    except ModuleNotFoundError as error:
        print(f"no plots: {error}; pip install 'nfilter[evidence]'", file=sys.stderr)
        drawn = {}
    commits = commits_of(evidence.made())
    text = page(
        evidence,
        provenance.facts(setting.recipe, setting.plugins, commits),
        provenance.families(setting.recipe),
        commands(options),
        {name: f"{folder.name}/{file}" for name, file in drawn.items()},
    )
    with publishing(report) as out:
        out.write(text)
    return report


def commands(options: argparse.Namespace) -> list[str]:
    """What makes this report again: the options that decide figures, not those that decide how fast."""
    words = ["python", "-m", "benchmarks.evidence"]
    if options.quick:
        words.append("--quick")
    for name in ("seeds", "noises", "percents"):
        if getattr(options, name):
            words += [f"--{name}", getattr(options, name)]
    if options.recipe != RECIPES / "quickstart.yaml":
        file = options.recipe.resolve()
        inside = file.is_relative_to(ROOT)
        words += ["--recipe", str(file.relative_to(ROOT)) if inside else options.recipe.name]
    for name in ("only", "set"):
        for value in getattr(options, name):
            words += [f"--{name}", value]
    usual = len(words) == 3
    return (["make evidence"] if usual else []) + [shlex.join(words)]
