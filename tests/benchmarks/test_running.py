"""Cells through workers: order, failures, and going on after a kill."""

from __future__ import annotations

import operator
import os
from functools import partial

import pytest

from benchmarks.evidence.cells import Keeper
from benchmarks.evidence.command import go
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.running import Alone, Progress, Workers, run_all


def cell(key: str, *lenders: str, kind: str = "train") -> Cell:
    return Cell(key, kind, "main", "none", 0, 0, (), None, lenders)


CELLS = [cell("answers"), cell("main", "answers"), cell("beta", "answers", "main"), cell("raw")]


class Killed(BaseException):
    """What a kill looks like from inside."""


class Fake:
    """Runs cells by writing down their keys; raises what it is told to."""

    def __init__(self, cells, raises=None):
        self.cells = cells
        self.ran = []
        self.raises = raises or {}

    def __call__(self, one):
        if one.key in self.raises:
            raise self.raises[one.key]
        self.ran.append(one.key)
        self.cells.put(one.key, {"recipe": "r"})

    def go(self):
        return run_all(
            CELLS,
            lambda one: self.cells.get(one.key) is not None,
            Alone(self),
            Progress(len(CELLS), 1),
            self.cells.fail,
        )


def test_cells_run_in_order_after_what_they_need(cells):
    fake = Fake(cells)
    assert fake.go() == []
    assert fake.ran == ["answers", "main", "beta", "raw"]
    again = Fake(cells)
    assert again.go() == []
    assert again.ran == []


def test_after_a_kill_what_is_done_is_not_run_again(cells):
    first = Fake(cells, {"beta": Killed()})
    with pytest.raises(Killed):
        first.go()
    assert first.ran == ["answers", "main"]
    second = Fake(cells)
    assert second.go() == []
    assert second.ran == ["beta", "raw"]


def test_a_failure_takes_along_what_needs_it_and_nothing_else(cells, capsys):
    fake = Fake(cells, {"main": ValueError("no such thing")})
    assert fake.go() == ["main", "beta"]
    assert fake.ran == ["answers", "raw"]
    assert "ValueError: no such thing" in cells.error("main")
    assert cells.error("beta") == "needs main, which failed"
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("[4/4] raw: ")
    assert Fake(cells).go() == []
    assert cells.error("main") is None


def test_a_cell_that_needs_what_is_not_planned_is_refused(cells):
    with pytest.raises(LookupError, match="beta needs a cell that is not planned"):
        run_all(
            [cell("beta", "elsewhere")],
            lambda _: False,
            Alone(Fake(cells)),
            Progress(1, 1),
            cells.fail,
        )


def test_time_left_goes_by_kind(capsys):
    progress = Progress(3, 2)
    cells = [cell("a"), cell("b"), cell("c", kind="detect")]
    progress.waiting(cells)
    progress.finished(cells[0], 600.0, None)
    # one training of ten minutes and one run of unknown length, taken as long, over two workers
    assert capsys.readouterr().err.endswith("600.0 s; about 10 min left\n")
    progress.finished(cells[2], 60.0, None)
    assert capsys.readouterr().err.endswith("60.0 s; about 5 min left\n")


def test_workers_bring_back_what_happened_in_another_process(cells):
    for make, error in (
        (partial(partial, repr), None),
        (partial(partial, operator.index), "TypeError"),
    ):
        crew = Workers(2, make)
        try:
            failed = run_all(
                CELLS[:1] + CELLS[3:], lambda _: False, crew, Progress(2, 2), cells.fail
            )
        finally:
            crew.close()
        assert sorted(failed) == ([] if error is None else ["answers", "raw"])
        assert error is None or error in cells.error("raw")


class Dies:
    """Ends its process in the middle of a cell, as the kernel does where memory is short."""

    def __call__(self, one):
        os._exit(9)


def test_a_process_that_ends_is_said_in_a_line(cells, capsys):
    assert go(cells, CELLS[:1], (), Dies, 1, Keeper(cells)) == 1
    said = capsys.readouterr().err
    assert (
        "the process that ran answers ended, perhaps for want of memory; run the same command again"
        in said
    )
