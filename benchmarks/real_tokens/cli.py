"""The command: find datasets, choose settings, run missing cells, write the report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.evidence import provenance
from benchmarks.evidence.cells import Cells, Keeper
from benchmarks.evidence.command import STOPPED, add_keep, go, numbers, picked, show_plan
from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.recipes import base_value
from benchmarks.real_evidence.runner import Named, models_of
from benchmarks.real_tokens.data import DataSet, Files, Sizes, find
from benchmarks.real_tokens.page import Told, page
from benchmarks.real_tokens.plan import LEVELS, MAIN, MIDDLE, SETTINGS, Wanted, chosen, plan, tried
from benchmarks.real_tokens.runner import TokenRunner
from benchmarks.real_tokens.stage import with_truth
from nfilter.api.errors import NfilterError
from nfilter.engine.versions import versions
from nfilter.store.files import digest, publishing

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = Path(__file__).resolve().parent / "base.yaml"
FIRST: Final = "gsm8k"
"""The dataset whose complete plan comes first, if it exists; else the first by name."""


@dataclass(frozen=True)
class Setting:
    """The inputs of a run of this command."""

    wanted: Wanted
    sets: list[DataSet]
    others: dict[str, str]
    base: dict[str, Any]
    named: Named
    files: Files
    inputs: str

    def settings(self) -> list[Cell]:
        """The cells that choose settings."""
        return tried(self.sets, self.base, self.files)

    def plan(self, cells: Cells) -> Plan:
        """All other cells, with the chosen settings."""
        found = {one.name: chosen(cells, one.name) for one in self.sets}
        known = {name: value for name, value in found.items() if value is not None}
        return plan(self.wanted, self.sets, self.base, known, self.files)

    def expecting(self, cells: Cells, planned: Sequence[Cell]) -> Cells:
        """Return ``cells``; planned ones must have the recipe that they were planned with."""
        return cells.expecting({cell.key: self.named.digest(self.base, cell) for cell in planned})


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    out = argparse.ArgumentParser(prog="python -m benchmarks.real_tokens", description=__doc__)
    out.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    out.add_argument("--out", type=Path, default=Path("runs/real-tokens"))
    out.add_argument("--results", type=Path, help="the report to write (OUT/results.md)")
    add_keep(out)
    out.add_argument("--quick", action="store_true", help=f"one data set, {MIDDLE}%% noise, seed 0, the main lines")  # fmt: skip
    out.add_argument("--render", action="store_true", help="run nothing, write the report")
    out.add_argument("--plan", action="store_true", help="run nothing, list the cells")
    out.add_argument("--workers", type=int, default=2, help="processes of one thread each (2)")
    out.add_argument("--model", help="the student (smollm2): a name that ships, a folder, a file")
    out.add_argument("--sets", help="these data sets alone, by the names of their folders")
    out.add_argument("--seeds", help="instead of 0,1,2")
    out.add_argument("--percents", help=f"instead of {','.join(map(str, LEVELS))}")
    out.add_argument("--rows", metavar="TRAIN,DEV,TEST", help="rows of a cell, instead of 48,24,48")
    out.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="cells with TEXT in their key"
    )
    out.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change base.yaml")
    return out


def wanted_of(options: argparse.Namespace) -> Wanted:
    """Return the seeds and levels of the options."""
    seeds, levels = ((0,), (MIDDLE,)) if options.quick else ((0, 1, 2), LEVELS)
    return Wanted(numbers(options.seeds, seeds), numbers(options.percents, levels), options.quick)


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Return the numbers of rows of the option; ends the command if they are not three numbers."""
    try:
        return Sizes() if options.rows is None else Sizes.read(options.rows)
    except ValueError:
        raise SystemExit(f"--rows {options.rows}: three numbers above 0, as in --rows 48,24,48") from None  # fmt: skip


def prepare(options: argparse.Namespace) -> Setting:
    """Read data and base recipe.

    Raises:
        NfilterError: when the data cannot be read, or a model is not there.
    """
    found, others = find(options.data, sizes_of(options), options.sets.split(",") if options.sets else ())  # fmt: skip
    sets = sorted(found, key=lambda one: (one.name != FIRST, one.name))
    sets = sets[:1] if options.quick else sets
    base = base_value(BASE, options.set)
    if options.model is not None:
        place = Path(options.model)
        base["models"]["student"]["model"] = str(place.resolve()) if place.exists() else options.model  # fmt: skip
    named = Named(models_of(base, with_truth()), {one.name: one.digest for one in sets})
    plain = {name: named.plain(use) for name, use in base["models"].items()}
    inputs = digest({**base, "models": plain}, "real tokens")
    return Setting(wanted_of(options), sets, others, base, named, Files(options.out / "data"), inputs)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every cell has figures, 1 if some failed, 130 if it was interrupted."""
    options = parser().parse_args(arguments)
    try:
        setting = prepare(options)
        first = setting.settings()
        cells = setting.expecting(Cells.opened(options.out, setting.inputs, {}, options.keep), first)  # fmt: skip
    except NfilterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    made = setting.plan(cells)
    cells = setting.expecting(cells, made.cells)
    if options.plan:
        show_plan(cells, [*first, *made.cells])
        return 0
    code = 0 if options.render else _run(options, setting, cells)
    made = setting.plan(cells)
    cells = setting.expecting(cells, made.cells)
    Keeper(cells)
    print(write(options, setting, cells, made))
    return code


def _run(options: argparse.Namespace, setting: Setting, cells: Cells) -> int:
    """Run the settings and the middle level of the first dataset, then the settings of the others and all lines."""
    first, *others = (one.name for one in setting.sets)
    for names in ([first], others):
        code = _go(options, setting, cells, [c for c in setting.settings() if c.noise in names])
        if code:
            return code
        every = setting.plan(cells).cells
        middle = [
            c
            for c in every
            if c.noise == first and c.part == MAIN and (c.percent == MIDDLE or c.kind == "vanilla")
        ]
        planned = middle if others and names == [first] else every
        code = _go(options, setting, setting.expecting(cells, planned), planned)
        if code == STOPPED or not others:
            return code
    return code


def _go(
    options: argparse.Namespace, setting: Setting, cells: Cells, planned: Sequence[Cell]
) -> int:
    # Settings are chosen whatever lines are asked for.
    wanted = [cell for cell in planned if cell.part == SETTINGS]
    wanted += picked([cell for cell in planned if cell.part != SETTINGS], options.only)
    make = partial(TokenRunner, cells, setting.base, provenance.commit(ROOT), setting.named)
    return go(cells, wanted, (), make, options.workers, Keeper(cells), provenance.device())


def write(options: argparse.Namespace, setting: Setting, cells: Cells, made: Plan) -> Path:
    """Write the report from the finished cells."""
    student = setting.base["models"]["student"]
    shown = {key: value for key, value in student.items() if key != "use"}
    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "student": ", ".join(f"{k} {Path(str(v)).name}" for k, v in shown.items()),
        "SHA-256 of the student": f"`{setting.named.plain(student)['model']}`",
    }
    told = Told(facts, setting.sets, setting.others, setting.base["train"], commands(options))
    report: Path = options.results or options.out / "results.md"
    with publishing(report) as out:
        out.write(page(Evidence(made, cells), cells, told))
    return report


def commands(options: argparse.Namespace) -> list[str]:
    """Return the command that reproduces the report, with the options that affect figures and a placeholder for the data."""
    words = ["python", "-m", "benchmarks.real_tokens", "--data", "FOLDER"]
    words += ["--quick"] if options.quick else []
    for name in ("sets", "seeds", "percents", "rows"):
        if getattr(options, name):
            words += [f"--{name}", getattr(options, name)]
    if options.model:
        words += ["--model", Path(options.model).name]
    for name in ("only", "set"):
        for value in getattr(options, name):
            words += [f"--{name}", value]
    usual = len(words) == 5
    return (["make evidence-real-tokens DATA=FOLDER"] if usual else []) + [shlex.join(words)]
