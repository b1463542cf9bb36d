"""The command: plan, run what is missing, write the report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.evidence import provenance
from benchmarks.evidence.cells import Cells, Keeper
from benchmarks.evidence.command import add_keep, go
from benchmarks.evidence.recipes import base_value
from benchmarks.token_evidence.page import page
from benchmarks.token_evidence.runner import (
    LINES,
    Runner,
    TokenCell,
    key_of,
    recipe_digest,
    reference_key,
)
from nfilter.api.errors import NfilterError
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load
from nfilter.store.files import publishing

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = ROOT / "nfilter" / "recipes" / "quickstart-tokens.yaml"
MIDDLE: Final = 40
PERCENTS: Final = (20, 40, 60)


def plan(
    seeds: Sequence[int], percents: Sequence[int], only: Sequence[str] = ()
) -> list[TokenCell]:
    """Every line at the middle level, some at all; references first."""
    wanted = [line for line in LINES.values() if not only or line.name in only]
    cells = [
        TokenCell(reference_key(seed), "reference", "", 0, seed)
        for seed in seeds
        if any(line.trusted for line in wanted)
    ]
    for percent in sorted(percents, key=lambda p: p != MIDDLE):
        for seed in seeds:
            for line in wanted:
                if percent == MIDDLE or (line.everywhere and not line.noiseless):
                    after = (reference_key(seed),) if line.trusted else ()
                    key = key_of(line, percent, seed)
                    cells.append(TokenCell(key, "train", line.name, percent, seed, after))
    return cells


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    out = argparse.ArgumentParser(prog="python -m benchmarks.token_evidence", description=__doc__)
    out.add_argument("--out", type=Path, default=Path("runs/token-evidence"))
    out.add_argument("--results", type=Path, help="the report to write (OUT/results.md)")
    add_keep(out)
    out.add_argument("--render", action="store_true", help="run nothing, write the report")
    out.add_argument("--workers", type=int, default=2, help="processes of one thread each (2)")
    out.add_argument("--seeds", default="0,1,2")
    out.add_argument("--percents", default=",".join(map(str, PERCENTS)))
    out.add_argument("--only", action="append", default=[], metavar="LINE", choices=list(LINES))
    out.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change the recipe"
    )
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every cell has figures, 1 if some failed, 130 if it was interrupted."""
    options = parser().parse_args(arguments)
    base = base_value(BASE, options.set)
    plugins = load()
    seeds = [int(part) for part in options.seeds.split(",")]
    percents = [int(part) for part in options.percents.split(",")]
    try:
        recipe = load_recipe(BASE, plugins, options.set)
        inputs = provenance.inputs(base, recipe, plugins)
        recipes = {cell.key: recipe_digest(base, cell) for cell in plan(seeds, percents)}
        cells = Cells.opened(options.out, inputs, recipes, options.keep)
    except NfilterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    todo = plan(seeds, percents, options.only)
    keeper = Keeper(cells)
    code = 0
    if not options.render:
        make = partial(Runner, cells, base, provenance.commit(ROOT))
        # Lines with trusted scores need the reference's weights.
        references = {cell.key for cell in todo if cell.kind == "reference"}
        code = go(cells, todo, references, make, options.workers, keeper)
    report: Path = options.results or options.out / "results.md"
    with publishing(report) as out:
        out.write(
            page(cells, recipe, seeds, sorted(percents), commands(options), provenance.device())
        )
    print(report)
    return code


def commands(options: argparse.Namespace) -> list[str]:
    """What makes this report again."""
    words = ["python", "-m", "benchmarks.token_evidence"]
    for name in ("seeds", "percents"):
        if getattr(options, name) != parser().get_default(name):
            words += [f"--{name}", getattr(options, name)]
    for name in ("only", "set"):
        for value in getattr(options, name):
            words += [f"--{name}", value]
    return [shlex.join(words)]


if __name__ == "__main__":
    sys.exit(main())
