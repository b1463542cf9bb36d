"""The benchmark of many rows runs with a few, and its table is that of its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.at_scale import Figures, different, growth, processes_of, table

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "at_scale.py"
LITTLE = Figures("purge", 1000, 2, 2.0, 500, 40, 60.0, 50.0, None, "a")
MUCH = replace(LITTLE, rows=1000 + 2**20, rows_per_second=12345, peak_mib=64.5, own_mib=51.0)


def test_growth_is_the_difference_of_two_peaks_per_row() -> None:
    other = replace(LITTLE, workers=1, peak_mib=1.0)
    assert growth([other, LITTLE, MUCH], MUCH) == (4.5, 1.0)
    assert growth([other, LITTLE, MUCH], LITTLE) is None
    index = {"recall": 0.98765, "changed": 0.0012}
    lines = table([LITTLE, replace(MUCH, index=index)]).splitlines()
    assert lines[2] == "| purge | 1,000 | 2 | 500 | 40 | 60 | 50 |  |  |  |"
    assert lines[3] == (
        "| purge | 1,049,576 | 2 | 12,345 | 40 | 64 | 51 | 4, 1 without files | 98.77% | 0.12% |"
    )


def test_rows_that_depend_on_the_workers_are_named() -> None:
    one = replace(LITTLE, workers=1)
    assert different([one, LITTLE, MUCH]) == []
    assert different([one, replace(LITTLE, output="b"), MUCH]) == ["purge, 1,000 rows"]


def test_a_process_that_a_thread_started_is_watched() -> None:
    started = threading.Event()
    ended: list[int] = []

    def start() -> None:
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        ) as child:
            ended.append(child.pid)
            started.set()
            seen.wait(60)

    seen = threading.Event()
    thread = threading.Thread(target=start)
    thread.start()
    assert started.wait(60)
    found = processes_of(os.getpid())
    seen.set()
    thread.join()
    assert found[0] == os.getpid()
    assert ended[0] in found
    assert processes_of(ended[0]) == [ended[0]]


def test_it_runs_both_steps_with_two_sizes(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    out = tmp_path / "figures.json"
    command = [
        sys.executable, str(SCRIPT), "--rows", "4400", "--workers", "1", "--dimensions", "8", "--steps", "purge,ivf",
        "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert [(each["step"], each["rows"]) for each in figures] == [
        ("purge", 1100), ("purge", 4400), ("neighbours, ivf", 1100), ("neighbours, ivf", 4400),
    ]  # fmt: skip
    assert all(each["peak_mib"] >= each["own_mib"] > 10 for each in figures)
    assert all(each["rows_per_second"] > 0 and each["cpu_us_per_row"] > 0 for each in figures)
    index = figures[-1]["index"]
    assert index["vectors"] == 4400
    assert 0 < index["recall"] <= 1
    assert done.stdout.count("| neighbours, ivf |") == 2
