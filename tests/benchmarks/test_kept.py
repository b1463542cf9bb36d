"""The file of all figures: what is written comes back, pages made from it are the same, and runs go on from it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.evidence import kept
from benchmarks.evidence.cells import Cells, Keeper, done
from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.page import page
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.running import Alone, Progress, run_all
from nfilter.api.errors import StoreError

FACTS = {"versions": {}, "data": {}, "weights": {}, "frozen": None, "profile": None, "commits": {}}


def test_bits_by_hand():
    assert kept.bits([True, False, True, False]) == "a"
    assert kept.bits([True]) == "8"
    assert kept.bits([False] * 4 + [True, True]) == "0c"
    assert kept.bits([]) == ""
    assert kept.flags("0c", 6) == [False] * 4 + [True, True]
    with pytest.raises(ValueError, match="2 hex digits for 9 rows, where 3 are needed"):
        kept.flags("0c", 9)


def test_bits_come_back():
    rng = random.Random(0)
    for n in range(70):
        flags = [rng.random() < 0.5 for _ in range(n)]
        assert kept.flags(kept.bits(flags), n) == flags


def test_fractions_have_seven_digits_and_the_rest_stays():
    value = {"a": 1 / 3, "b": [2, True, None, "x", 1234567.89], "c": {"d": 1e-9 / 3}}
    assert kept.rounded(value) == {
        "a": 0.3333333,
        "b": [2, True, None, "x", 1234568.0],
        "c": {"d": 3.333333e-10},
    }


def test_what_is_written_comes_back(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    cell = {"key": "b", "kind": "train", "samples": [{"use": "x"}]}
    values = {
        "b": {"right": {"q2": True, "q1": False}, "cell": cell, "accuracy": 0.5},
        "a": {"right": {"q2": False, "q1": True}, "accuracy": 0.5},
        "c": {"right": {}},
        "d": {"right": {"other": True}},
    }
    kept.save(file, values)
    found = kept.load(file)
    assert list(found) == ["a", "b", "c", "d"]
    assert [found[key]["right"] for key in "abcd"] == [values[key]["right"] for key in "abcd"]
    assert found["b"]["cell"] == {"key": "b", "kind": "train"}
    assert cell["samples"]
    lines = file.read_text().splitlines()
    assert len(lines) == 6  # two sets of rows, each once
    kept.save(file, found)
    assert file.read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "JSONDecodeError"),
        ('{"accuracy": 1}', "KeyError: 'key'"),
        ('{"key": "a", "right": {"rows": "none", "hex": "0"}}', "KeyError: 'none'"),
        ("3", "TypeError"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, why: str):
    file = tmp_path / "cells.jsonl"
    file.write_text('{"key":"ok"}\n' + line + "\n")
    with pytest.raises(StoreError, match=r"cells\.jsonl:2: not the figures of a cell") as caught:
        kept.load(file)
    assert why in str(caught.value)
    assert "put the file back as it was committed" in str(caught.value)


def test_a_page_from_the_file_alone_is_the_page_from_the_folder(planned, cells, fakes, tmp_path):
    made = planned(seeds=(0, 1), percents=(50,), noises=("uniform",))
    for place, cell in enumerate(made.cells):
        figures = (
            fakes.detected(cell) if cell.kind == "detect" else fakes.trained(cell, 9 + place % 20)
        )
        cells.put(cell.key, figures)
    file = tmp_path / "cells.jsonl"
    Keeper(Cells(cells.out, cells.inputs, keep=file))
    alone = Cells.opened(tmp_path / "another machine", cells.inputs, {}, file)
    pages = [page(Evidence(made, each), FACTS, {}, ["make"], {}) for each in (cells, alone)]
    assert pages[0] == pages[1]
    assert "not run" not in pages[1].split("## By family")[0]


def test_cells_of_the_file_count_for_their_inputs_and_recipe_alone(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    kept.save(file, {"a": {"inputs": "i", "recipe": "r", "commit": "c1"}, "old": {"inputs": "h"}})
    cells = Cells.opened(tmp_path / "out", "i", {"a": "r"}, file)
    assert cells.get("a") is not None
    assert cells.get("old") is None
    assert Cells.opened(tmp_path / "out", "i", {"a": "changed"}, file).get("a") is None
    assert Keeper(cells).says() == (
        f"{file} has 1 cells that are not run again (1 of commit c1); remove it to make them anew"
    )
    assert set(kept.load(file)) == {"a"}


def test_the_folder_is_newer_than_the_file(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    kept.save(file, {"a": {"inputs": "i", "accuracy": 0.1}})
    cells = Cells.opened(tmp_path / "out", "i", {}, file)
    cells.put("a", {"accuracy": 0.2})
    keeper = Keeper(cells)
    assert kept.load(file)["a"]["accuracy"] == 0.2
    assert keeper.says() is None


def test_the_file_is_written_after_every_cell(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    cells = Cells.opened(tmp_path / "out", "i", {}, file)
    seen = []

    def run(one: Cell) -> None:
        seen.append(sorted(kept.load(file)))
        cells.put(one.key, {"commit": "c"})

    todo = [Cell(key, "train", "main", "none", 0, 0, ()) for key in ("b", "a", "c")]
    run_all(todo, lambda _: False, Alone(run), Progress(3, 1), cells.fail, Keeper(cells).done)
    assert seen == [[], ["b"], ["a", "b"]]
    assert sorted(kept.load(file)) == ["a", "b", "c"]


def test_without_a_file_none_is_written(tmp_path: Path):
    cells = Cells(tmp_path, "i")
    keeper = Keeper(cells)
    cells.put("a", {})
    keeper.done("a")
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_what_others_build_on_runs_again_where_its_folder_is_elsewhere(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    kept.save(file, {key: {"inputs": "i"} for key in ("answers", "main", "raw")})
    cells = Cells.opened(tmp_path / "out", "i", {}, file)
    answers = Cell("answers", "answers", "shared", "none", 0, 0, ())
    main = Cell("main", "train", "main", "none", 0, 0, (), None, ("answers",))
    raw = Cell("raw", "train", "main", "none", 0, 0, ())
    sized = Cell("sized", "train", "main", "none", 0, 0, (), "raw")
    other = Cell("other", "train", "main", "none", 0, 0, (), None, ("main",))
    folders = {"answers", "main"}
    assert done(cells, [answers, main, raw], folders) == {"answers", "main", "raw"}
    # The size of another cell is a figure; its answers lie in its folder.
    assert done(cells, [answers, main, raw, sized], folders) == {"answers", "main", "raw"}
    assert done(cells, [answers, main, raw, other], folders) == {"raw"}
    cells.put("main", {})
    cells.folder("main").mkdir(parents=True)
    assert done(cells, [answers, main, raw, other], folders) == {"answers", "main", "raw"}
