"""Two processes in one directory: one runs, the other ends at once and says who holds it."""

from __future__ import annotations

import re
from typing import Any

import pytest

NO_LOCK = "import fcntl\nfcntl.flock = lambda *_: None\n"


def race(bench: Any, name: str) -> list[tuple[int, str]]:
    """Start two at once; how each ended, and what it said."""
    both = [bench.start(name) for _ in range(2)]
    said = [process.communicate()[1].decode() for process in both]
    return [(process.returncode, text) for process, text in zip(both, said, strict=True)]


def one_ran(bench: Any, name: str) -> bool:
    bench.forget()
    ended = sorted(race(bench, name))
    if [code for code, _ in ended] == [0, 0]:
        # The second began after the first had ended: nothing was asked twice.
        return sum(bench.served().values()) == bench.rows
    (ran, _), (turned_away, text) = ended
    held = re.search(r"process \d+ is running in it; wait for it, or choose another --out", text)
    return (ran, turned_away) == (0, 7) and held is not None and "Traceback" not in text


def test_one_of_two_runs(bench_of: Any) -> None:
    bench = bench_of(rows=100, concurrency=8, chunk=50)
    assert all(one_ran(bench, f"race-{n}") for n in range(2))


@pytest.mark.slow
def test_one_of_two_runs_twenty_times(bench_of: Any) -> None:
    bench = bench_of(rows=400, concurrency=32, chunk=100)
    assert all(one_ran(bench, f"race-{n}") for n in range(20))


def test_without_the_lock_both_would_run(bench_of: Any) -> None:
    bench = bench_of(rows=100, concurrency=8, chunk=50, latency=0.05)
    bench.build = NO_LOCK
    assert not all(one_ran(bench, f"race-{n}") for n in range(3))


def test_seeds_that_two_processes_would_run_are_run_by_one(bench_of: Any) -> None:
    """Seeds need the same greedy calls: two processes, each in another seed first, would pay for them twice."""
    bench = bench_of(rows=100, concurrency=8, chunk=50)
    both = [bench.start("group", "--seeds", seeds) for seeds in ("0,1", "1,0")]
    said = [process.communicate()[1].decode() for process in both]
    codes = [process.returncode for process in both]
    assert sum(bench.served().values()) == bench.rows
    assert sorted(codes) in ([0, 0], [0, 7])
    if 7 in codes:
        assert re.search(r"process \d+ is running in it; wait for it", said[codes.index(7)])
