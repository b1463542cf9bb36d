"""Time, dollars and calls of the runs of a directory: of the last run and of all runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter.api.notes import is_number
from nfilter.report import reading
from nfilter.store.files import read_sealed

RUNS = "runs.json"


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, dollars and calls of ``runs`` runs; ``untimed`` of them have an unknown length."""

    seconds: float
    usd: float
    calls: int
    runs: int = 1
    untimed: int = 0


def spent(run_dir: Path) -> tuple[Spent, Spent] | None:
    """Return the sums of the last run and of all runs in the directory; for a group, over all seeds. None without a record.

    Raises:
        DamageError: if the record was changed.
    """
    files = [path / RUNS for path in reading.children_of(run_dir) or [run_dir]]
    every = [read_sealed(file, run_dir)["runs"] for file in files if file.exists()]
    if not every:
        return None
    last = _sum([runs[-1] for runs in every], 1)
    return last, _sum([run for runs in every for run in runs], max(map(len, every)))


def _sum(runs: Sequence[Any], count: int) -> Spent:
    timed = [run["seconds"] for run in runs if is_number(run["seconds"])]
    return Spent(
        sum(timed),
        sum(run["usd"] for run in runs),
        sum(run["calls"] for run in runs),
        count,
        len(runs) - len(timed),
    )


def both(spent: tuple[Spent, Spent], show: Callable[[Spent], str]) -> str:
    """Return one figure of all runs, and of this run if it is not the only one."""
    this, every = spent
    if every.runs == 1:
        return show(this)
    return f"{show(every)} in all {every.runs} runs, {show(this)} in this one"
