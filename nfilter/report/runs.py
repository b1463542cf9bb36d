"""What the runs of a directory took, in words: this one, and all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter.metrics.figures import is_number
from nfilter.report import reading

RUNS = "runs.json"


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, dollars and calls; ``runs`` of which there were so many, ``untimed`` of them of unknown length."""

    seconds: float
    usd: float
    calls: int
    runs: int = 1
    untimed: int = 0


def spent(run_dir: Path) -> tuple[Spent, Spent] | None:
    """What the last run took, and what all runs in the directory took; of a group, all seeds together.

    Raises:
        DamageError: when the record is not what was written.
    """
    from nfilter.store.files import read_sealed

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


def both(found: tuple[Spent, Spent], show: Callable[[Spent], str]) -> str:
    """One figure of all runs, and of this one where it is not the only one."""
    this, every = found
    if every.runs == 1:
        return show(this)
    return f"{show(every)} in all {every.runs} runs, {show(this)} in this one"
