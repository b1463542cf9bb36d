"""A disk that is full at any moment: nothing is published torn, and the same command resumes."""

from __future__ import annotations

from typing import Any

import pytest

# The N-th write to a file of the run fails, or the journal may not grow past N pages.
FULL_FILES = """
import errno, os
real, left = os.fsync, [{n}]
def fsync(handle):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(handle)
os.fsync = fsync
"""
FULL_JOURNAL = """
import sqlite3
real = sqlite3.connect
def connect(*args, **more):
    connection = real(*args, **more)
    connection.execute('PRAGMA max_page_count={n}')
    return connection
sqlite3.connect = connect
"""


def fails_and_goes_on(bench: Any, name: str, build: str, whole: str) -> bool:
    """Whether the disk was full before the run was over."""
    bench.build = build
    process = bench.start(name)
    said = process.communicate()[1].decode()
    if process.returncode != 0:
        assert process.returncode == 7, said
        assert "cannot be written" in said
        assert "run the same command to resume" in said
        assert "Traceback" not in said
    bench.build = ""
    assert bench.finish(name) == 0
    assert bench.kept(name) == whole
    return process.returncode != 0


def offsets(files: int, pages: int) -> list[str]:
    return [
        *(FULL_FILES.format(n=n) for n in range(files)),
        *(FULL_JOURNAL.format(n=6 + 4 * n) for n in range(pages)),
    ]


def test_a_full_disk_at_a_few_moments(bench_of: Any) -> None:
    bench = bench_of(rows=60, concurrency=8, chunk=20)
    assert bench.finish("whole") == 0
    whole = bench.kept("whole")
    moments = enumerate(offsets(12, 2)[3::5])
    assert all(fails_and_goes_on(bench, f"run-{n}", build, whole) for n, build in moments)


@pytest.mark.slow
def test_a_full_disk_at_fifty_moments(bench_of: Any) -> None:
    bench = bench_of(rows=200, concurrency=16, chunk=50)
    assert bench.finish("whole") == 0
    whole = bench.kept("whole")
    moments = enumerate(offsets(40, 10))
    full = [fails_and_goes_on(bench, f"run-{n}", build, whole) for n, build in moments]
    print(f"{sum(full)} of {len(full)} runs met a full disk")
    assert sum(full) >= 40
