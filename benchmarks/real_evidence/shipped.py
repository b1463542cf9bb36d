"""The recipe that ``nfilter init`` writes for each file, and the stages of the shipped recipes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.evidence.lines import stages_of
from benchmarks.evidence.recipes import base_value
from benchmarks.real_evidence.data import DataSet, Files
from benchmarks.real_evidence.plan import Shipped, Wanted

RECIPES: Final = Path(__file__).resolve().parents[2] / "nfilter" / "recipes"


def shipped(wanted: Wanted, sets: Sequence[DataSet], model: str, files: Files) -> Shipped:
    """Let ``nfilter init`` write the recipe of every dataset, level and seed, and read the shipped ones."""
    default = {
        (one.name, level, seed): written(files.as_given(one, level, seed), model)
        for one in sets
        for level in wanted.of(one)
        for seed in wanted.seeds
    }
    return Shipped(default, _samples("robustft"), _samples("robustft-official"))


def written(data: Path, model: str) -> Mapping[str, Any]:
    """What ``nfilter init --data DATA --model MODEL`` writes, as a recipe's value without skipped stages.

    Raises:
        NfilterError: as the command does.
    """
    from nfilter.cli import main

    out = data.with_suffix(".yaml")
    words = ["init", "--data", str(data), "--model", model, "--out", str(out), "--force"]
    with contextlib.redirect_stdout(io.StringIO()):
        main.main(words, prog_name="nfilter", standalone_mode=False)
    value = base_value(out)
    return {**value, "samples": stages_of(value)}


def _samples(name: str) -> list[dict[str, Any]]:
    return stages_of(base_value(RECIPES / f"{name}.yaml"))
