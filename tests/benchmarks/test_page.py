"""The report from made-up cells: a golden page, the same bytes each time, plots too."""

from __future__ import annotations

import pytest

from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.page import page
from benchmarks.evidence.plots import draw

RIGHT = {
    "vanilla": 20, "raw": 12, "official": 22, "robustft": 28, "clean": 24, "relabel-all": 33, "random": 11,
    "neighbors": 19, "truth": 32,
}  # fmt: skip
FACTS = {
    "versions": {"python": "3.11.0", "torch": "2.0"},
    "data": {"train": "1234", "test": "5678"},
    "weights": {"student/model.safetensors": "9abc"},
    "frozen": {"world": "w", "weights": "9abc", "splits": "s", "version": 2},
    "profile": {
        "direct": {"sums": {"right": 0.75, "low": 0.7, "high": 0.8, "n": 400}},
        "reason": {},
    },
    "commits": {"abc": 40},
}


@pytest.fixture
def evidence(planned, cells, fakes):
    """Uniform noise alone, two seeds, two levels; the own kind failed, truth-size has not run."""
    made = planned(seeds=(0, 1), percents=(30, 50), noises=("uniform",))
    by_key = {cell.key: cell for cell in made.cells}
    for (line, _, percent, seed), key in made.of.items():
        value = line.partition("=")[2]
        right = RIGHT.get(line) or (20 + int(float(value) * 2) if value else None)
        if right is not None:
            shift = (seed + percent // 30) % 3 if line != "vanilla" else 0
            cells.put(key, fakes.trained(by_key[key], right, shift=shift))
    for key in made.detection.values():
        cells.put(key, fakes.detected(by_key[key]))
    cells.fail(
        made.of["no-review", "uniform", 50, 0],
        f"{cells.folder(made.of['no-review', 'uniform', 50, 0])}/recipe.yaml:3: no `review`\nmore",
    )
    return Evidence(made, cells)


def families(fakes):
    return {f"q{i:02d}": "sums" if i < 20 else "words" for i in range(fakes.questions)}


def test_the_page_is_what_it_was(evidence, fakes, golden):
    text = page(evidence, FACTS, families(fakes), ["make evidence"], {"main": "results/main.svg"})
    golden("evidence/results.md", text)


def test_the_page_says_what_has_not_run(evidence, fakes):
    text = page(evidence, FACTS, families(fakes), ["make evidence"], {})
    assert "| truth-size | not run |" in text
    assert "1 cells, the first uniform-50-s0-no-review: `recipe.yaml:3: no 'review'`" in text
    assert "not run" in text.split("### 50% uniform wrong answers: ablations")[1]


def test_a_page_of_nothing_says_so(planned, cells):
    text = page(Evidence(planned(), cells), {**FACTS, "frozen": None, "profile": None}, {}, [], {})
    assert "- 30% own: not run." in text
    assert "No profile ships with the weights." in text
    assert "The test rows name no family." in text
    assert "frozen" not in text


def test_plots_have_the_same_bytes_each_time(evidence, tmp_path):
    pytest.importorskip("matplotlib")
    one, two = (draw(evidence, tmp_path / name) for name in ("one", "two"))
    assert one == two == {name: f"{name}.svg" for name in ("main", "calls", "calibration", "sweep")}
    for file in one.values():
        first, second = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert first == second
        assert b"<dc:date>" not in first


def test_nothing_is_drawn_of_nothing(planned, cells, tmp_path):
    pytest.importorskip("matplotlib")
    assert draw(Evidence(planned(), cells), tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()
