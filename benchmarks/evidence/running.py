"""Cells through workers: in order, after what they need, resumable, with the time that is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from nfilter.api.errors import NfilterError


class Cell(Protocol):
    """What is run: ``key`` names it, ``kind`` tells what takes as long, ``after`` what must have run before."""

    @property
    def key(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def after(self) -> tuple[str, ...]: ...


Run = Callable[[Any], None]
Done = tuple[Cell, float, str | None]
"""A cell, its seconds, and the error where it failed."""


class Crew(Protocol):
    """Who runs cells: ``free`` says how many more it can take now."""

    @property
    def free(self) -> int: ...

    def start(self, cell: Cell) -> None: ...

    def next(self) -> Done: ...

    def close(self) -> None: ...


@dataclass
class Alone:
    """Runs cells in this process, one at a time."""

    run: Run
    _cell: Cell | None = None

    @property
    def free(self) -> int:
        """One, unless a cell waits to be run."""
        return int(self._cell is None)

    def start(self, cell: Cell) -> None:
        """Take a cell."""
        self._cell = cell

    def next(self) -> Done:
        """Run it."""
        cell, self._cell = self._cell, None
        if cell is None:
            raise LookupError("no cell was started")
        seconds, error = attempt(self.run, cell)
        return cell, seconds, error

    def close(self) -> None:
        """Nothing is held."""


def attempt(run: Run, cell: Cell) -> tuple[float, str | None]:
    """Run a cell; how long it took, and what it raised. One that fails does not end the others."""
    began = time.monotonic()
    try:
        run(cell)
    except NfilterError as error:
        return time.monotonic() - began, str(error)
    except Exception as error:  # noqa: BLE001 - the others go on, and the report says what happened
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        return time.monotonic() - began, text
    return time.monotonic() - began, None


class LostWorkerError(RuntimeError):
    """A process that ran cells has ended in the middle of one."""


class Workers:
    """Processes of one thread each; every one keeps its models loaded."""

    def __init__(self, n: int, make: Callable[[], Run]) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # before a child imports torch
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        context = multiprocessing.get_context("spawn")
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Cell] = {}
        self._processes: list[Any] = []
        for _ in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            self._idle.append(ours)
            self._processes.append(process)

    @property
    def free(self) -> int:
        """How many processes have nothing to do."""
        return len(self._idle)

    def start(self, cell: Cell) -> None:
        """Give a cell to a process that is free."""
        connection = self._idle.pop()
        self._busy[connection] = cell
        connection.send(cell)

    def next(self) -> Done:
        """Wait for a cell.

        Raises:
            LostWorkerError: when a process ended in the middle of one.
        """
        ready: Any = wait(list(self._busy))[0]
        cell = self._busy.pop(ready)
        try:
            seconds, error = ready.recv()
        except EOFError as error:
            raise LostWorkerError(
                f"the process that ran {cell.key} ended, perhaps for want of memory; run the same command again (--workers 1 takes half of it)"
            ) from error
        self._idle.append(ready)
        return cell, seconds, error

    def close(self) -> None:
        """End the processes; a cell at work is left as it stands, and goes on from there next time."""
        for connection in (*self._idle, *self._busy):
            connection.close()
        for process in self._processes:
            if not self._busy:
                process.join(10)
            if process.is_alive():
                process.terminate()
            process.join()


def serve(connection: Connection, make: Callable[[], Run]) -> None:
    """A worker process: cells come in, seconds and errors go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked, and ends its children
    run = make()
    while True:
        try:
            cell = connection.recv()
        except EOFError:
            return
        connection.send(attempt(run, cell))


@dataclass
class Progress:
    """Lines on standard error: what is done, how long it took, how long the rest will take."""

    total: int
    workers: int
    done: int = 0
    _seconds: dict[str, list[float]] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)

    def waiting(self, cells: Iterable[Cell]) -> None:
        """The cells that are to be run."""
        for cell in cells:
            self._left[cell.kind] = self._left.get(cell.kind, 0) + 1

    def finished(self, cell: Cell, seconds: float, error: str | None) -> None:
        """One more is done."""
        self.done += 1
        self._left[cell.kind] -= 1
        if error is None:
            self._seconds.setdefault(cell.kind, []).append(seconds)
        ends = error.splitlines()[0] if error else f"{seconds:.1f} s"
        self.say(f"[{self.done}/{self.total}] {cell.key}: {ends}{self._time_left()}")

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def _time_left(self) -> str:
        known = [value for values in self._seconds.values() for value in values]
        if not known:
            return ""
        mean = sum(known) / len(known)
        total = sum(
            count * (sum(own) / len(own) if (own := self._seconds.get(kind)) else mean)
            for kind, count in self._left.items()
        )
        return f"; about {total / self.workers / 60:.0f} min left" if total else ""


def run_all(
    cells: Sequence[Cell],
    is_done: Callable[[Cell], bool],
    crew: Crew,
    progress: Progress,
    fail: Callable[[str, str], None],
    done: Callable[[str], None] | None = None,
) -> list[str]:
    """Run what is not done, in the order given; the keys of those that failed.

    A cell waits for those it needs, and fails with them. ``fail`` is told key and error, ``done`` the key of each
    that succeeds.
    """
    finished = {cell.key for cell in cells if is_done(cell)}
    todo = [cell for cell in cells if cell.key not in finished]
    progress.done = len(finished)
    progress.waiting(todo)
    failed: list[str] = []
    at_work = 0

    def end(cell: Cell, seconds: float, error: str | None) -> None:
        if error is None:
            finished.add(cell.key)
            if done is not None:
                done(cell.key)
        else:
            failed.append(cell.key)
            fail(cell.key, error)
        progress.finished(cell, seconds, error)

    while todo or at_work:
        for cell in [cell for cell in todo if set(cell.after) & set(failed)]:
            todo.remove(cell)
            lost = next(key for key in cell.after if key in failed)
            end(cell, 0.0, f"needs {lost}, which failed")
        while crew.free and (ready := _ready(todo, finished)) is not None:
            todo.remove(ready)
            crew.start(ready)
            at_work += 1
        if at_work:
            at_work -= 1
            end(*crew.next())
        elif todo and not any(set(cell.after) & set(failed) for cell in todo):
            raise LookupError(f"{todo[0].key} needs a cell that is not planned: {todo[0].after}")
    return failed


def _ready(todo: Sequence[Cell], finished: set[str]) -> Cell | None:
    return next((cell for cell in todo if finished.issuperset(cell.after)), None)
