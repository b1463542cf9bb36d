"""The page of real data: what data sets are, what is planned of them, and what a page says follows from the cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.figures import Difference, Evidence
from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.recipes import base_value, write_recipe
from benchmarks.real_evidence.cli import BASE, commands, main, parser
from benchmarks.real_evidence.data import DataSet, Files
from benchmarks.real_evidence.figures import figures, verdict
from benchmarks.real_evidence.findings import best, learnable, level
from benchmarks.real_evidence.lines import CHECKED, FEW, LINES
from benchmarks.real_evidence.page import Told, page
from benchmarks.real_evidence.plan import (
    GRID,
    Shipped,
    Wanted,
    chosen,
    in_order,
    is_unlearned,
    key_of,
    plan,
    quick_sets,
    tried,
)
from benchmarks.real_evidence.runner import Named, RealRunner, recipe_of, weights
from benchmarks.real_evidence.shipped import shipped, written
from benchmarks.real_evidence.stage import found, with_evidence
from nfilter.recipe.model import load as load_recipe
from tests.benchmarks.news_sets import QUESTIONS, make, other

# --- plan ------------------------------------------------------------------------------------------------------

SHIPPED = Shipped(
    {}, [{"use": "robustft.answer", "llm": "expert", "into": "base"}, {"use": "robustft.check", "views": ["base"]}],
    [{"use": "robustft.answer", "llm": "expert"}],
)  # fmt: skip


@pytest.fixture
def planned(one: DataSet, tmp_path: Path) -> Callable[..., Plan]:
    def make(*sets: DataSet, setting: Mapping[str, Any] | None = None, **wanted: Any) -> Plan:
        return plan(
            Wanted(**wanted), sets or [one], base_value(BASE), setting or {}, SHIPPED, Files(tmp_path / "data")
        )  # fmt: skip

    return make


def test_lines_of_a_data_set(planned: Callable[..., Plan]):
    made = planned(seeds=(0, 1))
    names = {(name, percent) for name, _, percent, _ in made.of}
    assert {name for name, percent in names if percent == 70} == set(LINES) - {
        "robustft",
        "official",
    }
    assert not {name for name, percent in names if percent == 50} & set(CHECKED)
    keys = [cell.key for cell in made.cells]
    assert len(set(keys)) == len(keys)
    # Without noise there is one run for all levels, and the untrained model has one for all seeds.
    assert {made.of["truth", "news", p, 0] for p in (30, 50, 70)} == {"news-s0-truth"}
    assert {made.of["vanilla", "news", p, s] for p in (30, 70) for s in (0, 1)} == {"news-vanilla"}
    assert made.of["truth", "news", 30, 1] == "news-s1-truth"
    first = [cell.key for cell in made.cells[:3]]
    assert first == ["news-vanilla", "news-s0-truth", "news-50-s0-raw"]
    sized = next(cell for cell in made.cells if cell.key == "news-30-s1-random")
    assert sized.size_of == "news-30-s1-neighbors"
    sized = next(cell for cell in made.cells if cell.key == "news-70-s1-truth-size")
    assert sized.size_of == "news-70-s1-neighbors-trusted"


def test_rows_with_options_of_their_own_have_few_lines(planned: Callable[..., Plan]):
    made = planned(other("quiz"), seeds=(0,))
    assert {name for name, *_ in made.of} == set(FEW)


def test_what_the_student_does_not_learn_is_not_trained_on(
    one: DataSet, cells: Cells, tmp_path: Path
):
    made = plan(
        Wanted((0, 1), asked=True), [one], base_value(BASE), {}, SHIPPED, Files(tmp_path), ["news"]
    )
    found = [f"news-{level}-s{seed}-detection" for seed in (0, 1) for level in (50, 30, 70)]
    assert [cell.key for cell in made.cells] == ["news-vanilla", "news-s0-truth", *found]
    # The most frequent answer is right in a third of the 12 test rows; two standard errors of 6 of 12 are .29, of 8 .27.
    assert one.frequent == pytest.approx(1 / 3)
    assert not is_unlearned(cells, one, 0)  # not trained yet
    for accuracy, unlearned in ((6 / 12, True), (8 / 12, False)):
        cells.put("news-s0-truth", {"accuracy": accuracy})
        assert is_unlearned(cells, one, 0) is unlearned


def test_lines_that_ask_are_run_on_demand(planned: Callable[..., Plan]):
    made = planned(seeds=(0,), levels=(50,), asked=True)
    assert [cell.key for cell in made.cells[-2:]] == ["news-50-s0-robustft", "news-50-s0-official"]
    (detection,) = [cell for cell in made.cells if cell.kind == "detect"]
    uses = [stage["use"] for stage in detection.samples]
    assert uses[0] == "robustft.answer"
    assert any(stage.get("views") == ["base", "neighbors"] for stage in detection.samples)


def test_a_default_that_asks_is_run_on_demand_too(one: DataSet, tmp_path: Path):
    asks = {("news", 50, 0): {"samples": [{"use": "robustft.reason", "llm": "expert"}]}}
    for asked in (False, True):
        made = plan(
            Wanted((0,), (50,), asked=asked), [one], base_value(BASE), {}, Shipped(asks, [], []), Files(tmp_path)
        )  # fmt: skip
        assert any(name == "default" for name, *_ in made.of) is asked


def test_quick_takes_the_smallest_set_with_one_set_of_options(one: DataSet):
    assert quick_sets([other("a", 5), one]) == [one]
    assert [each.name for each in in_order([other("b", 5), other("a", 6), one])] == [
        "news",
        "b",
        "a",
    ]


def test_every_cell_is_a_recipe_that_passes(
    one: DataSet, planned: Callable[..., Plan], tmp_path: Path
):
    base = base_value(BASE, ["models.student.model=tiny"])
    base["models"]["encoder"] = "student"
    plugins = with_evidence()
    made = planned(seeds=(0, 1), setting={"lr": 0.5, "max_steps": 3}, asked=True)
    dev = tried(one, base, Files(tmp_path / "data"))
    for cell in [*made.cells, *dev]:
        file = tmp_path / "cells" / cell.key / "recipe.yaml"
        write_recipe(recipe_of(base, cell, 5), file)
        recipe = load_recipe(file, plugins)
        path = (file.parent / recipe.source.use.config.path).resolve()
        assert path.is_file()
        if cell.part == "main" and cell.kind == "train":
            assert recipe.train is not None
            assert (recipe.train.config.lr, recipe.train.config.max_steps) == (0.5, 3)
        if cell.kind != "detect":
            assert recipe.test is not None
            wanted = "news-dev.csv" if cell.part == "settings" else "news-test.csv"
            assert Path(recipe.test.use.config.path).name == wanted
    assert base["train"] == base_value(BASE)["train"]


def test_a_digest_says_what_is_read_and_not_where(planned: Callable[..., Plan], tmp_path: Path):
    base = base_value(BASE)
    cell = planned(seeds=(0,)).cells[1]
    here, there = ({**base, "models": {**base["models"], "student": {"use": "hf", "model": name}}} for name in ("/a/w", "/b/w"))  # fmt: skip
    named = Named({"/a/w": "weights", "/b/w": "weights"}, {"news": "rows"})
    assert named.digest(here, cell) == named.digest(there, cell)
    assert Named({"/a/w": "w2"}, {"news": "rows"}).digest(here, cell) != named.digest(here, cell)
    assert Named(named.models, {"news": "r2"}).digest(here, cell) != named.digest(here, cell)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"one")
    first = weights(str(tmp_path / "m"), with_evidence())
    (tmp_path / "m" / "model.safetensors").write_bytes(b"two")
    assert first != weights(str(tmp_path / "m"), with_evidence())
    assert weights("a/hub-id", with_evidence()) is None


# --- settings --------------------------------------------------------------------------------------------------


def tried_with(cells: Cells, setting: Mapping[str, Any], *counts: int) -> None:
    """Put the figures of a setting: of 40 rows so many are right, seed by seed."""
    for seed, count in enumerate(counts):
        answers = {f"q{i:02d}": i < count for i in range(40)}
        cells.put(
            key_of(setting, "news", seed),
            {"right": answers, "accuracy": count / 40, "unanswered": 0, "seconds": 60.0},
        )


def grid(*steps: int) -> tuple[dict[str, Any], ...]:
    return tuple({"lr": 1e-3, "max_steps": count, "batch_size": 8} for count in steps)


def test_the_cheapest_setting_near_the_best_is_taken(cells: Cells, monkeypatch: pytest.MonkeyPatch):
    made = grid(160, 80, 40)
    monkeypatch.setattr("benchmarks.real_evidence.plan.GRID", made)
    assert chosen(cells, "news") is None
    # Of 40 rows 30 are right at best; a difference of one row is within an error, one of twelve is not.
    for setting, count in zip(made, (30, 29, 18), strict=True):
        assert chosen(cells, "news") is None
        tried_with(cells, setting, count, count)
    assert chosen(cells, "news") == made[1]


def test_a_setting_that_fails_with_one_seed_is_not_taken(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
):
    made = grid(40, 80, 160)
    monkeypatch.setattr("benchmarks.real_evidence.plan.GRID", made)
    tried_with(cells, made[0], 36, 12)
    tried_with(cells, made[1], 30, 31)
    tried_with(cells, made[2], 31)
    assert chosen(cells, "news") is None  # one seed of the last is missing
    tried_with(cells, made[2], 31, 30)
    assert chosen(cells, "news") == made[1]


def test_fewer_steps_are_taken_where_they_do_as_well(cells: Cells, monkeypatch: pytest.MonkeyPatch):
    made = grid(40, 80)
    monkeypatch.setattr("benchmarks.real_evidence.plan.GRID", made)
    for near, taken in ((29, made[0]), (18, made[1])):
        tried_with(cells, made[0], near, near)
        tried_with(cells, made[1], 30, 30)
        assert chosen(cells, "news") == taken


# --- the recipe of init ----------------------------------------------------------------------------------------


def test_the_default_is_what_init_writes(one: DataSet, tmp_path: Path):
    files = Files(tmp_path / "data")
    made = shipped(Wanted((0,), (50,)), [one], "tiny", files)
    value = made.default["news", 50, 0]
    assert value == written(files.as_given(one, 50, 0), "tiny")
    assert value["models"]["student"]["model"] == "tiny"
    assert value["samples"]
    assert [stage["use"] for stage in made.robustft][-1] == "robustft.select"


# --- cleanlab --------------------------------------------------------------------------------------------------


def test_cleanlab_flags_what_the_questions_contradict():
    pytest.importorskip("cleanlab")
    import numpy as np

    rng = np.random.default_rng(0)
    codes = np.arange(60) % 2
    vectors = np.eye(2)[codes] * 4 + rng.normal(0, 0.1, (60, 2))
    labels = [("no", "yes")[code] for code in codes]
    labels[7], labels[20] = "no", "yes"
    flagged, scores = found(vectors, labels)
    assert sorted(np.flatnonzero(flagged)) == [7, 20]
    assert min(scores[7], scores[20]) > 0.9 > 0.2 > np.delete(scores, [7, 20]).max()


def test_classes_that_cannot_be_foretold_are_not_flagged():
    pytest.importorskip("cleanlab")
    import numpy as np

    flagged, scores = found(np.zeros((6, 2)), ["a"] * 5 + ["b"])
    assert not flagged.any()
    assert not scores.any()


# --- figures, findings, page -----------------------------------------------------------------------------------

RIGHT = {
    "vanilla": 10, "raw": 16, "neighbors": 30, "neighbors, relabelled": 17, "cleanlab": 24, "random": 15, "truth-size": 33, "truth": 35,
}  # fmt: skip


def measured(cell: Cell, right: int, fakes: Any, shift: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = fakes.trained(cell, right, shift=shift)
    value["cleaning_seconds"] = 0.5
    if cell.samples and "robustft.random" not in {stage["use"] for stage in cell.samples}:
        value["detection"] = {"precision": 0.8, "recall": 0.9, "f1": 0.85, "roc_auc": 0.95}
    return value


@pytest.fixture
def evidence(planned: Callable[..., Plan], cells: Cells, fakes: Any) -> Evidence:
    """Two seeds at 50%, one of them at 70%; the lines with checked labels and 30% have not run."""
    made = planned(seeds=(0, 1), setting=GRID[0])
    by_key = {cell.key: cell for cell in made.cells}
    for (line, _, percent, seed), key in made.of.items():
        if line in RIGHT and (percent == 50 or (percent == 70 and seed == 0)):
            shift = 0 if line == "vanilla" else seed
            cells.put(key, measured(by_key[key], RIGHT[line], fakes, shift))
    key = made.detection["news", 50, 0]
    note = {"precision": 0.8, "recall": 0.9, "f1": 0.85, "roc_auc": 0.95, "flagged": 0.55}
    by_note = {"all(neighbors)": note, "cleanlab": {**note, "f1": 0.7}}
    cells.put(
        key,
        {
            "cell": by_key[key].to_json(), "seconds": 1.0, "commit": "abc",
            "detection": {**note, "noise_rate": 0.5, "flag_all": {"f1": 2 / 3}, "by_note": by_note},
        },
    )  # fmt: skip
    tried_with(cells, GRID[0], 30, 29)
    tried_with(cells, GRID[1], 30)
    return Evidence(made, cells)


def told(one: DataSet) -> Told:
    written = {"samples": [{"use": "robustft.neighbors", "encoder": "encoder"}]}
    train = base_value(BASE)["train"]
    return Told({"versions": "python 3.11.0"}, [one], {"dolly": "it has no test.csv"}, {"news": written}, train, ["make evidence-real"], False)  # fmt: skip


def test_the_page_is_what_it_was(evidence: Evidence, cells: Cells, one: DataSet, golden: Any):
    golden("evidence/results-real.md", page(evidence, cells, told(one)))


def test_a_page_of_nothing_says_so(planned: Callable[..., Plan], cells: Cells, one: DataSet):
    made = planned(seeds=(0,))
    text = page(Evidence(made, cells), cells, told(one))
    assert f"Not run yet: {len(made.cells)} cells" in text
    assert "Not chosen yet, so that no line has run." in text
    assert "news: the truth arm is not run." in text
    assert "- news 50%" not in text


def test_figures_of_a_line(evidence: Evidence):
    made = figures(evidence, "neighbors", "news", 50)
    assert made is not None
    assert made.line.accuracy.mean == 30 / QUESTIONS
    assert made.line.accuracy.n == 2
    assert made.less_cleanlab is not None
    assert made.less_cleanlab.mean == pytest.approx(6 / 40)
    assert made.line.recovered == pytest.approx((30 - 16) / (35 - 16))
    assert made.found["f1"] is not None
    assert made.found["f1"].mean == 0.85
    assert figures(evidence, "neighbors", "news", 30) is None
    alone = figures(evidence, "cleanlab", "news", 50)
    assert alone is not None
    assert alone.less_cleanlab is None


def test_intervals_judge():
    gap = Difference(0.1, 0.1, -0.1, 0.3, 2)
    assert verdict(gap) == "is not shown to differ from"
    assert verdict(Difference(0.1, 0.01, 0.05, 0.15, 2)) == "beats"
    assert verdict({"low": -0.2, "high": -0.1}) == "is below"


def test_what_is_said_of_methods(evidence: Evidence, cells: Cells):
    said = level(evidence, "news", 50)
    assert len(said) == 3  # the methods that have run
    (near,) = [text for text in said if text.startswith("news 50%: `neighbors` ")]
    assert "**beats raw** (+.350" in near
    assert "**beats random** (+.375" in near
    assert "recovers .737" in near
    assert "asked for .800 (not reached)" in near
    (relabelled,) = [text for text in said if "`neighbors, relabelled`" in text]
    assert "is not shown to differ from raw" in relabelled
    assert "**is below cleanlab**" in relabelled
    assert not [text for text in said if "a control wins" in text]
    assert best(evidence, "news", 50).startswith("`neighbors`")
    assert "the student learns the task" in learnable(evidence, "news", 0.4)
    assert "no method can show anything here" in learnable(evidence, "news", 0.8)


def test_a_control_that_wins_is_said(planned: Callable[..., Plan], cells: Cells, fakes: Any):
    made = planned(seeds=(0,), levels=(50,))
    by_key = {cell.key: cell for cell in made.cells}
    for name, right in {**RIGHT, "random": 39, "raw": 20}.items():
        key = made.of[name, "news", 50, 0]
        cells.put(key, measured(by_key[key], right, fakes))
    (text,) = [t for t in level(Evidence(made, cells), "news", 50) if "a control wins" in t]
    assert text.startswith("news 50%: **a control wins**: `random` beats `neighbors` (+.225")


def test_the_command_says_what_makes_the_page_again(tmp_path: Path):
    options = parser().parse_args(["--data", "secret/place", "--workers", "1"])
    assert commands(options) == ["make evidence-real DATA=FOLDER", "python -m benchmarks.real_evidence --data FOLDER"]  # fmt: skip
    options = parser().parse_args(["--data", "x", "--quick", "--set", "train.rank=4", "--model", "/a/b/w"])  # fmt: skip
    assert commands(options) == ["python -m benchmarks.real_evidence --data FOLDER --quick --model w --set train.rank=4"]  # fmt: skip


def test_data_that_cannot_be_read_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["--data", str(tmp_path / "none")]) != 0
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_goes_from_data_to_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("cleanlab")
    small = tuple({"lr": lr, "max_steps": 2, "batch_size": 8} for lr in (1e-3, 1e-2))
    for name in ("plan", "page"):
        monkeypatch.setattr(f"benchmarks.real_evidence.{name}.GRID", small)
    # Two steps teach nothing; the lines are trained all the same.
    monkeypatch.setattr("benchmarks.real_evidence.plan.knows_more", lambda *_: True)
    given = make(tmp_path / "given", levels=(50,), n=150)
    file = tmp_path / "cells.jsonl"
    options = [
        "--data",
        str(given),
        "--quick",
        "--model",
        "tiny",
        "--workers",
        "0",
        "--keep",
        str(file),
    ]
    first = [*options, "--out", str(tmp_path / "out")]
    assert main(first) == 0
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "not run" not in text.split("## What is compared")[0]
    assert "| neighbors |" in text
    capsys.readouterr()
    # Another machine has the file alone.
    again = [*options, "--out", str(tmp_path / "other"), "--render"]
    assert main(again) == 0
    assert (tmp_path / "other" / "results.md").read_text(encoding="utf-8") == text
    assert RealRunner.__mro__[1].__name__ == "Runner"
