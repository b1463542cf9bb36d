"""Real runs of the embedded model over a few rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.cli import RECIPES, main
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.recipes import base_value
from benchmarks.evidence.runner import Runner
from nfilter.store.files import read_json

SMALL = ("source.rows=24", "evaluate.limit=20", "train.epochs=1", "train.batch_size=8")


@pytest.mark.slow
def test_equal_training_sets_are_trained_on_once(tmp_path: Path):
    cells = Cells(tmp_path, "inputs")
    runner = Runner(cells, base_value(RECIPES / "quickstart.yaml", SMALL))
    asked = {"use": "robustft.random", "keep": 24}
    raw = Cell("raw", "train", "main", "uniform", 50, 0, ())
    same = Cell("same", "train", "main", "uniform", 50, 0, (asked,))
    other = Cell("other", "train", "main", "uniform", 50, 1, ())
    for cell in (raw, same, other):
        runner(cell)
    runner.close()
    first, second, third = (cells.get(cell.key) for cell in (raw, same, other))
    assert (first["trained_in"], second["trained_in"], third["trained_in"]) == (
        "raw",
        "raw",
        "other",
    )
    assert first["right"] == second["right"]
    assert first["training"] == second["training"]
    assert first["labels"] == {"right": 0.5, "n": 24}
    assert len(first["right"]) == 20
    assert first["training"]["steps"] == 3


@pytest.mark.slow
def test_the_command_goes_from_nothing_to_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--quick", "--noises", "uniform", "--workers", "0", "--out", str(tmp_path)]
    for text in SMALL:
        options += ["--set", text]
    only = ["--only", "vanilla", "--only", "raw", "--only", "truth", "--only", "random"]
    assert main([*options, *only]) == 0
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    kept = read_json(tmp_path / "figures" / "uniform-50-s0-robustft.json")["samples"]["kept"]
    random = read_json(tmp_path / "figures" / "uniform-50-s0-random.json")
    assert random["samples"]["kept"] == random["training"]["samples"] == kept
    assert "| official | not run |" in page
    assert (tmp_path / "results" / "main.svg").is_file()
    capsys.readouterr()
    assert main([*options, *only]) == 0
    assert "all 6 cells are done" in capsys.readouterr().err
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == page


@pytest.mark.slow
def test_where_no_row_is_left_the_untrained_model_answers(tmp_path: Path):
    cells = Cells(tmp_path, "inputs")
    runner = Runner(cells, base_value(RECIPES / "quickstart.yaml", SMALL))
    none = ({"use": "robustft.random", "keep": 0},)
    runner(Cell("vanilla", "vanilla", "shared", "none", 0, 0, ()))
    runner(Cell("none", "train", "main", "uniform", 50, 0, none))
    runner.close()
    vanilla, found = cells.get("vanilla"), cells.get("none")
    assert found["samples"]["kept"] == 0
    assert found["right"] == vanilla["right"]
    assert (found["trained_in"], found["training"]) == (None, None)
