"""The benchmark of the page of a run: its synthetic run is one that the page reads, and its figures are of that run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from benchmarks import view_million
from nfilter import RunReader


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("million") / "run"
    view_million.write_run(out, 2500)
    return out


@pytest.fixture(scope="module")
def measured(run: Path) -> view_million.Measured:
    return view_million.measure(run, 2, browser=False)


def lines(run: Path, pattern: str) -> list[dict[str, object]]:
    paths = sorted(run.glob(pattern))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_the_run_is_read_whole_and_its_decisions_are_those_of_its_stages(run: Path) -> None:
    rows = [row for block in RunReader(run).outcomes() for row in block]
    assert [row.id for row in rows] == [f"row-{n:07d}" for n in range(2500)]
    dropped = [one["id"] for one in lines(run, "02-*/decisions-*.jsonl") if one["action"] == "drop"]
    assert [row.id for row in rows if row.fate == "dropped"] == dropped
    assert len(dropped) > 100


def test_queries_match_as_many_rows_as_the_files_have(
    run: Path, measured: view_million.Measured
) -> None:
    decided = lines(run, "02-*/decisions-*.jsonl")
    texts = [path.read_text() for path in sorted(run.glob("00-source/chunk-*.jsonl"))]
    questions = [line for text in texts for line in text.splitlines()]
    found = {name: timings.rows for name, timings in measured.timings.items()}
    assert measured.rows == len(questions) == 2500
    assert found["filter by decision"] == sum(one["action"] == "relabel" for one in decided)
    with_word = [line for line in questions if re.search(r"\bword0042\b", line)]
    assert found["search for a word"] == len(with_word)
    assert found["search for two letters that are in every row"] == 2500
    assert found["sort all rows, borderline first"] == 2500


def test_every_request_is_timed_once_per_round_and_the_index_has_a_size(
    run: Path, measured: view_million.Measured
) -> None:
    assert {len(one.wall) for one in measured.timings.values()} == {2}
    assert {len(one.processor) for one in measured.timings.values()} == {2}
    assert min(min(one.wall) for one in measured.timings.values()) > 0
    size = sum(path.stat().st_size for path in (run / ".view").rglob("*") if path.is_file())
    assert measured.facts["size of the index"] == f"{size / 1e6:,.0f} MB"
    assert float(measured.facts["memory of the server, at most"].split()[0]) > 10


def test_the_table_has_medians_and_their_number() -> None:
    timings = view_million.Timings([0.3, 0.1, 0.2], [0.01, 0.03, 0.02], 7)
    table = view_million.markdown(view_million.Measured(9, {"run": "1 MB"}, {"a filter": timings}))
    assert table.splitlines()[0] == "9 rows"
    assert "| run | 1 MB |" in table
    assert "| a filter | 7 | 0.200 s | 0.300 s | 0.020 s | 3 |" in table
