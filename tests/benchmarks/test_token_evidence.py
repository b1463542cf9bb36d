"""The table of the token methods: what is planned runs, and what a page says follows from the cells."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.recipes import base_value, write_recipe
from benchmarks.token_evidence.cli import BASE, plan
from benchmarks.token_evidence.figures import figures, reason
from benchmarks.token_evidence.page import page
from benchmarks.token_evidence.runner import LINES, TokenCell, key_of, recipe_of
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load


def test_every_cell_is_a_recipe_that_passes(tmp_path: Path) -> None:
    plugins, base = load(), base_value(BASE)
    cells = plan([0], [40])
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in cells:
        file = tmp_path / f"{cell.key}.yaml"
        write_recipe(recipe_of(base, cell, tmp_path / "merged"), file)
        recipe = load_recipe(file, plugins)
        line = LINES.get(cell.line)
        noise = recipe.source.noise
        if line is None or line.noiseless:
            assert noise is None
        else:
            assert noise is not None
            assert noise.tokens == 0.4
            assert noise.ratio == (0.3 if line.mixed else 0.0)
    assert base == base_value(BASE)  # no cell changed what the next one begins from


def test_what_needs_a_reference_waits_for_it_and_levels_are_those_of_importance() -> None:
    cells = plan([0, 1], [20, 40])
    for cell in cells:
        if cell.kind == "train" and LINES[cell.line].trusted:
            assert cell.after == (f"reference-s{cell.seed}",)
    low = {cell.line for cell in cells if cell.percent == 20}
    assert low == {n for n, line in LINES.items() if line.everywhere and not line.noiseless}


def cell_value(right: int, *, noise_kept: float, lost: float, auc: float) -> dict[str, Any]:
    noise = {
        "noise": 0.4, "noise_kept": noise_kept, "signal_dropped": lost, "precision": 0.5, "recall": 1 - noise_kept,
        "f1": 0.5, "by_kind": {"wrong": {"recall": 1 - noise_kept}}, "roc_auc": {"excess": auc},
    }  # fmt: skip
    return {
        "accuracy": right / 100, "unanswered": 0.0, "seconds": 1.0, "commit": "c",
        "right": {str(i): i < right for i in range(100)}, "tokens": {"token_noise": noise},
    }  # fmt: skip


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    made = Cells(tmp_path, "inputs")
    for seed in (0, 1, 2):
        for name, right, kept, lost, auc in (
            ("random", 50 + seed, 0.6, 0.4, 0.5),
            ("fixed, warm-up", 30 + seed, 0.8, 0.5, 0.3),
            ("STM", 80 + seed, 0.2, 0.3, 0.9),
        ):
            value = cell_value(right, noise_kept=kept, lost=lost, auc=auc)
            made.put(key_of(LINES[name], 40, seed), value)
    return made


def test_means_differences_and_reasons_by_hand(cells: Cells) -> None:
    found = {
        n: figures(cells, LINES[n], 40, (0, 1, 2)) for n in ("random", "fixed, warm-up", "STM")
    }
    stm, bad, random = found["STM"], found["fixed, warm-up"], found["random"]
    assert stm is not None
    assert bad is not None
    assert random is not None
    assert (stm.accuracy.mean, stm.accuracy.sd) == (pytest.approx(0.81), pytest.approx(0.01))
    assert stm.less_random is not None
    assert stm.less_random.mean == pytest.approx(0.3)
    # The same difference in every seed: the error is that of the rows, 30 of 100 of which differ, one row on a seed.
    differing = [range(50 + seed, 80 + seed) for seed in (0, 1, 2)]
    row = statistics.variance([sum(r in each for each in differing) / 3 for r in range(100)]) * 3
    rest = (3 * 100 * 0.3 * 0.7 - 99 * row) / (2 * 99)
    assert stm.less_random.error == pytest.approx(((row - rest) / 300) ** 0.5)
    assert stm.beats_random
    assert not bad.beats_random
    assert random.less_random is None
    said = reason(bad, random)
    assert "`excess` takes signal for noise (ROC-AUC 0.30)" in said
    assert "80% of the noise stays in the loss (wrong 80%)" in said
    assert "50% of the signal is lost" in said


def test_the_page_has_what_there_is(cells: Cells) -> None:
    recipe = load_recipe(BASE, load())
    text = page(cells, recipe, (0, 1, 2), (40,), ["python -m x"], "cpu")
    assert "| STM |" in text
    assert ".810 (.010)" in text
    assert "**Better than the random mask**, in this order: STM." in text
    assert "`fixed, warm-up` is not:" in text
    assert "XTF" not in text.split("## 40%")[1]  # what was not run has no row


def test_the_shipped_page_is_of_this_recipe() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "results-tokens.md").read_text()
    recipe = load_recipe(BASE, load())
    train = recipe.train.config.model_dump(mode="json") if recipe.train else {}
    for name in ("rank", "lr", "epochs", "batch_size"):
        assert f'"{name}": {json.dumps(train[name])}' in text
    assert all(f"| {line.name} |" in text for line in LINES.values())


def test_a_cell_is_told_by_its_line_level_and_seed() -> None:
    keys = {key_of(line, p, s) for line in LINES.values() for p in (20, 40) for s in (0, 1)}
    without = sum(line.noiseless for line in LINES.values())
    assert len(keys) == 4 * (len(LINES) - without) + 2 * without
    assert TokenCell("k", "train", "STM", 40, 0).after == ()
