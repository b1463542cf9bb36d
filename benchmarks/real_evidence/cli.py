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
from benchmarks.real_evidence.data import LEVELS, DataSet, Files, find
from benchmarks.real_evidence.page import Told, page
from benchmarks.real_evidence.plan import (
    SETTINGS,
    TAUGHT,
    Shipped,
    Wanted,
    chosen,
    in_order,
    is_unlearned,
    plan,
    quick_sets,
    tried,
)
from benchmarks.real_evidence.runner import Named, RealRunner, encoder, models_of
from benchmarks.real_evidence.shipped import shipped
from benchmarks.real_evidence.stage import with_evidence
from nfilter.api.errors import NfilterError
from nfilter.engine.versions import versions
from nfilter.registry.loading import Plugins
from nfilter.store.files import digest, publishing

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = Path(__file__).resolve().parent / "base.yaml"


@dataclass(frozen=True)
class Setting:
    """The inputs of a run of this command."""

    wanted: Wanted
    sets: list[DataSet]
    others: dict[str, str]
    base: dict[str, Any]
    named: Named
    files: Files
    plugins: Plugins
    inputs: str
    shipped: Shipped

    def settings(self) -> list[Cell]:
        """The cells that choose the settings of all data sets, on rows of the first."""
        return tried(self.sets[0], self.base, self.files)

    def plan(self, cells: Cells) -> Plan:
        """All other cells, with the chosen settings."""
        found = chosen(cells, self.sets[0].name) or {}
        unlearned = [
            one.name for one in self.sets if is_unlearned(cells, one, self.wanted.seeds[0])
        ]
        return plan(self.wanted, self.sets, self.base, found, self.shipped, self.files, unlearned)

    def expecting(self, cells: Cells, planned: Sequence[Cell]) -> Cells:
        """Return ``cells``; planned ones must have the recipe that they were planned with."""
        return cells.expecting({cell.key: self.named.digest(self.base, cell) for cell in planned})


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    out = argparse.ArgumentParser(prog="python -m benchmarks.real_evidence", description=__doc__)
    out.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    out.add_argument("--out", type=Path, default=Path("runs/real-evidence"))
    out.add_argument("--results", type=Path, help="the report to write (OUT/results.md)")
    add_keep(out)
    out.add_argument(
        "--quick", action="store_true", help="one data set, 50%% noise, seed 0, the main lines"
    )
    out.add_argument("--render", action="store_true", help="run nothing, write the report")
    out.add_argument("--plan", action="store_true", help="run nothing, list the cells")
    out.add_argument("--workers", type=int, default=2, help="processes of one thread each (2)")
    out.add_argument("--model", help="the student (smollm2): a name that ships, a folder, a file")
    out.add_argument("--encoder", type=Path, help="the folder of the encoder")
    out.add_argument("--sets", help="these data sets alone, by the names of their folders")
    out.add_argument("--seeds", help="instead of 0,1,2")
    out.add_argument("--percents", help=f"instead of {','.join(map(str, LEVELS))}")
    out.add_argument(
        "--asked",
        action="store_true",
        help="the lines and rules too for which the student answers every row: hours",
    )
    out.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="cells with TEXT in their key"
    )
    out.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change base.yaml")
    return out


def wanted_of(options: argparse.Namespace) -> Wanted:
    """Return the seeds and levels of the options."""
    seeds, levels = ((0,), (50,)) if options.quick else ((0, 1, 2), LEVELS)
    return Wanted(
        numbers(options.seeds, seeds),
        numbers(options.percents, levels),
        options.quick,
        options.asked,
    )


def prepare(options: argparse.Namespace) -> Setting:
    """Read data and base recipe, and ask ``init`` for its recipes.

    Raises:
        NfilterError: when the data cannot be read, or a model is not there.
    """
    wanted = wanted_of(options)
    found, others = find(options.data, options.sets.split(",") if options.sets else ())
    sets = quick_sets(found) if options.quick and not options.sets else in_order(found)
    plugins = with_evidence()
    base = base_value(BASE, options.set)
    if options.model is not None:
        place = Path(options.model)
        base["models"]["student"]["model"] = str(place.resolve()) if place.exists() else options.model  # fmt: skip
    base["models"]["encoder"]["model"] = encoder(options.encoder)
    files = Files(options.out / "data")
    model = str(base["models"]["student"]["model"])
    ships = shipped(wanted, sets, model, files)
    used = [base, *ships.default.values()]
    models = {name: value for each in used for name, value in models_of(each, plugins).items()}
    named = Named(models, {one.name: one.digest for one in sets})
    plain = {name: named.plain(use) for name, use in base["models"].items()}
    inputs = digest({**base, "models": plain}, "real evidence")
    return Setting(wanted, sets, others, base, named, files, plugins, inputs, ships)


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
    code = 0 if options.render or options.plan else _run(options, setting, cells)
    if code == STOPPED:
        return code
    made = setting.plan(cells)
    cells = setting.expecting(cells, made.cells)
    if options.plan:
        show_plan(cells, [*first, *made.cells])
        return 0
    Keeper(cells)
    print(write(options, setting, cells, made))
    return code


def _run(options: argparse.Namespace, setting: Setting, cells: Cells) -> int:
    """Choose the settings, then run the lines of each data set, first those that tell whether the student learns it."""
    code = _go(options, setting, cells, setting.settings())
    for one in () if code else setting.sets:
        for few in (True, False):
            own = [cell for cell in setting.plan(cells).cells if cell.noise == one.name]
            own = own[: len(TAUGHT)] if few else own
            code = max(code, _go(options, setting, setting.expecting(cells, own), own))
            if code == STOPPED:
                return code
    return code


def _go(
    options: argparse.Namespace, setting: Setting, cells: Cells, planned: Sequence[Cell]
) -> int:
    # Settings are chosen whatever lines are asked for.
    wanted = [cell for cell in planned if cell.part == SETTINGS]
    wanted += picked([cell for cell in planned if cell.part != SETTINGS], options.only)
    make = partial(RealRunner, cells, setting.base, provenance.commit(ROOT), named=setting.named)
    return go(cells, wanted, (), make, options.workers, Keeper(cells), provenance.device())


def write(options: argparse.Namespace, setting: Setting, cells: Cells, made: Plan) -> Path:
    """Write the report from the finished cells."""
    models = setting.base["models"]
    student = {key: value for key, value in models["student"].items() if key != "use"}
    plain = setting.named.plain(models["student"])
    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "student": ", ".join(f"{k} {Path(str(v)).name}" for k, v in student.items()),
        "SHA-256 of the student": f"`{plain['model']}`",
        "SHA-256 of the encoder": f"`{setting.named.plain(models['encoder'])['model']}`",
    }
    defaults: dict[str, Any] = {}
    for (name, _, _), value in setting.shipped.default.items():
        if value["samples"] not in [each["samples"] for each in defaults.values()]:
            defaults[name if name not in defaults else f"{name}, another level or seed"] = value
    told = Told(
        facts, setting.sets, setting.others, defaults, setting.base["train"], commands(options), setting.wanted.asked,
    )  # fmt: skip
    report: Path = options.results or options.out / "results.md"
    with publishing(report) as out:
        out.write(page(Evidence(made, cells), cells, told))
    return report


def commands(options: argparse.Namespace) -> list[str]:
    """Return the command that reproduces the report, with the options that affect figures and a placeholder for the data."""
    words = ["python", "-m", "benchmarks.real_evidence", "--data", "FOLDER"]
    for name in ("quick", "asked"):
        words += [f"--{name}"] if getattr(options, name) else []
    for name in ("sets", "seeds", "percents"):
        if getattr(options, name):
            words += [f"--{name}", getattr(options, name)]
    for name in ("model", "encoder"):
        if getattr(options, name):
            words += [f"--{name}", Path(getattr(options, name)).name]
    for name in ("only", "set"):
        for value in getattr(options, name):
            words += [f"--{name}", value]
    usual = len(words) == 5
    return (["make evidence-real DATA=FOLDER"] if usual else []) + [shlex.join(words)]
