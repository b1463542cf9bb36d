"""What the commands of all evidence pages share: the file of figures, and cells run to the end or to a stop."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.cells import Cells, Keeper, done
from benchmarks.evidence.plan import Cell as Planned
from benchmarks.evidence.running import (
    Alone,
    Cell,
    Crew,
    LostWorkerError,
    Progress,
    Run,
    Workers,
    run_all,
)

STOPPED = 130


def add_keep(out: argparse.ArgumentParser) -> None:
    """The option for the file of all figures."""
    out.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="figures of all cells in one file (JSON lines): read first, so that its cells are not run again, and written after every cell",
    )


def numbers(text: str | None, usual: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of an option such as ``0,1,2``; ``usual`` where it was not given."""
    return usual if text is None else tuple(int(part) for part in text.split(","))


def picked(planned: Sequence[Planned], only: Sequence[str]) -> list[Planned]:
    """The cells with one of the texts of ``--only`` in their key, and those whose size they take; all without a text."""
    keys = {c.key for c in planned if not only or any(text in c.key for text in only)}
    keys |= {c.size_of for c in planned if c.key in keys and c.size_of}
    return [cell for cell in planned if cell.key in keys]


def show_plan(cells: Cells, planned: Sequence[Planned], folders: Collection[str] = ()) -> None:
    """Print every cell, and whether it need not run; ``folders`` as in ``go``."""
    finished = done(cells, planned, folders)
    for cell in planned:
        print(f"{cell.part:10} {'done' if cell.key in finished else 'to run':7} {cell.key}")


def go(
    cells: Cells,
    todo: Sequence[Cell],
    folders: Collection[str],
    make: Callable[[], Any],
    workers: int,
    keeper: Keeper,
    where: str = "",
) -> int:
    """Run what has no figures yet: 0 when all have some now, 1 when cells failed, 130 when it was stopped.

    ``folders`` are the keys of cells that others build on (``cells.done``); ``make`` makes what runs a cell, in each worker.
    """
    progress = Progress(len(todo), max(1, workers))
    if (said := keeper.says()) is not None:
        progress.say(said)
    finished = done(cells, todo, folders)
    if len(finished) == len(todo):
        progress.say(f"all {len(todo)} cells are done")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a stop too
    run: Run | None = None if workers else make()
    crew: Crew = Workers(workers, make) if run is None else Alone(run)
    progress.say(f"{len(todo)} cells{where and f' on {where}'}, {max(1, workers)} at a time")
    try:
        failed = run_all(
            todo, lambda cell: cell.key in finished, crew, progress, cells.fail, keeper.done
        )
    except KeyboardInterrupt:
        progress.say("stopped; run the same command to resume")
        return STOPPED
    except LostWorkerError as error:
        progress.say(str(error))
        return 1
    finally:
        crew.close()
    return int(bool(failed))
