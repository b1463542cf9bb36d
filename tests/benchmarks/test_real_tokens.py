"""The page of tokens on real texts: what data sets are, what is planned of them, and what a page says follows from the cells."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evidence import kept
from benchmarks.evidence.cells import Cells
from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.lines import KEPT
from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.recipes import base_value, recipe_of, write_recipe
from benchmarks.real_tokens.cli import BASE, commands, main, parser
from benchmarks.real_tokens.data import DataSet, Files
from benchmarks.real_tokens.figures import difference, figures
from benchmarks.real_tokens.findings import level
from benchmarks.real_tokens.lines import CORE, FEW, LINES, METHODS, MIXED, OWN_CONTROL, SIZED_BY
from benchmarks.real_tokens.page import Told, page
from benchmarks.real_tokens.plan import GRID, Wanted, chosen, plan, setting_key, tried
from benchmarks.real_tokens.runner import TokenRunner, share_kept
from benchmarks.real_tokens.stage import TruthMask, TruthMaskConfig, with_truth, write_truth
from nfilter.api.stages import EMPTY_STATE
from nfilter.api.types import Message, NoiseSpan, Row, Sample, TokenSample
from nfilter.recipe.model import load as load_recipe
from nfilter.testing import FakeContext
from nfilter_hf.lora.trainer import LoraTrainer
from tests.benchmarks.text_sets import make

# --- the mask that knows ---------------------------------------------------------------------------------------


def test_the_true_mask_takes_out_what_was_planted(tmp_path: Path):
    response = "two of course and two"
    whole = "Q: add. A: " + response
    sample = Sample("a", (Message("user", "add."), Message("assistant", response)))
    row = Row(sample, noise=(NoiseSpan(4, 14, "boilerplate"),))
    spans = [[at, at + len(word)] for word in whole.split() for at in [whole.index(word)]]
    spans[-1] = [len(whole) - 3, len(whole)]
    answer = np.array([start >= 11 for start, _ in spans])
    tokens = TokenSample(
        "a", np.arange(len(spans)), answer, turn=answer.astype(np.int16), text=whole, spans=np.array(spans), weights=answer.astype(np.float32),
    )  # fmt: skip
    other = TokenSample(
        "b", np.arange(2), np.ones(2, dtype=bool), turn=np.ones(2, dtype=np.int16), text="ab", spans=np.array([[0, 1], [1, 2]]),
        weights=np.ones(2, dtype=np.float32),
    )  # fmt: skip
    write_truth([row, Row(replace_id(sample, "b"))], tmp_path / "truth.json")
    stage = TruthMask(TruthMaskConfig(path=tmp_path / "truth.json"))
    done, untouched = stage.process_tokens([tokens, other], EMPTY_STATE, FakeContext(), 3)
    words = whole.split()
    assert [word for word, weight in zip(words, done.weights, strict=True) if weight] == [
        "two",
        "and",
        "two",
    ]
    assert set(done.reasons[answer].tolist()) == {0, 8}
    assert untouched.weights.tolist() == [1, 1]


def replace_id(sample: Sample, name: str) -> Sample:
    return Sample(name, sample.messages)


# --- plan ------------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(sets: list[DataSet], tmp_path: Path) -> Callable[..., Plan]:
    def made(settings: Mapping[str, Any] | None = None, **wanted: Any) -> Plan:
        return plan(
            Wanted(**wanted), sets, base_value(BASE), settings or {}, Files(tmp_path / "data")
        )

    return made


def test_lines_of_levels_and_sets(planned: Callable[..., Plan]):
    made = planned()
    keys = [cell.key for cell in made.cells]
    assert len(set(keys)) == len(keys)

    def names(one: str, percent: int, seed: int) -> set[str]:
        return {name for name, o, p, s in made.of if (o, p, s) == (one, percent, seed)}

    assert names("sums", 40, 2) == set(LINES) - set(MIXED)
    assert names("tasks", 40, 2) == set(FEW)
    assert names("sums", 60, 0) == set(CORE)
    assert names("sums", 0, 0) == set(CORE) - {"truth"}
    assert names("sums", 60, 1) == names("tasks", 60, 0) == set()
    assert names("sums", 20, 0) == set(CORE) | set(MIXED)
    assert {made.of["untrained", "sums", p, 0] for p in (0, 20, 40, 60)} == {"sums-untrained"}
    assert keys[:4] == [
        "sums-untrained",
        "sums-40-s0-full",
        "sums-40-s0-truth",
        "sums-40-s0-random",
    ]
    for control, line in SIZED_BY.items():
        cell = next(c for c in made.cells if c.key == made.of[control, "sums", 40, 1])
        assert cell.size_of == made.of[line, "sums", 40, 1]
        assert keys.index(cell.size_of) < keys.index(cell.key)
    quick = planned(seeds=(0,), levels=(40,), quick=True)
    assert {name for name, *_ in quick.of} == set(CORE)


def test_every_cell_is_a_recipe_that_passes(
    sets: list[DataSet], planned: Callable[..., Plan], tmp_path: Path
):
    base = base_value(BASE, ["models.student.model=tiny"])
    plugins = with_truth()
    made = plan(Wanted((0,)), sets, base, {"sums": {"lr": 0.5}}, Files(tmp_path / "data"))
    dev = tried(sets, base, Files(tmp_path / "data"))
    for cell in [*made.cells, *dev]:
        file = tmp_path / "cells" / cell.key / "recipe.yaml"
        write_recipe(recipe_of(base, cell, 0.5), file)
        recipe = load_recipe(file, plugins)
        assert recipe.test is not None
        for use in (recipe.source.use, recipe.test.use):
            assert (file.parent / use.config.path).resolve().is_file()
        if cell.kind == "vanilla":
            continue
        noise = recipe.source.noise
        assert (noise.tokens if noise else 0.0) == cell.percent / 100
        assert (noise.ratio if noise else 0.0) == (0.3 if cell.part == "mixed" else 0.0)
        if cell.part == "main" and cell.noise == "sums":
            assert recipe.train is not None
            assert recipe.train.config.lr == 0.5
        assert (
            Path(recipe.test.use.config.path).name
            == f"{cell.noise}-{'dev' if cell.part == 'settings' else 'test'}.jsonl"
        )
    assert base == base_value(BASE, ["models.student.model=tiny"])


def test_a_control_keeps_as_much_as_its_line(planned: Callable[..., Plan]):
    made = planned()
    cell = next(c for c in made.cells if c.key == "sums-40-s0-random-as-stm")
    assert cell.changes["tokens"] == [{"use": "tokens.random", "k": KEPT}]
    base = base_value(BASE)
    assert recipe_of(base, cell, 0.37)["tokens"] == [{"use": "tokens.random", "k": 0.37}]
    with pytest.raises(LookupError, match=r"tokens.random keeps is not known yet"):
        recipe_of(base, cell)
    assert share_kept({"tokens": {"in_loss": 30, "response": 40}}) == 0.75
    assert share_kept({"tokens": None}) == 1.0


def test_the_setting_of_the_lowest_loss_is_taken(cells: Cells):
    for setting, loss in zip(GRID, (1.2, 1.0, 1.1), strict=True):
        assert chosen(cells, "sums") is None
        cells.put(setting_key(setting, "sums"), {"loss": loss})
    assert chosen(cells, "sums") == GRID[1]


# --- figures ---------------------------------------------------------------------------------------------------


def test_a_difference_is_over_rows_and_seeds_as_everywhere():
    control = [{"a": 1.0, "b": 1.4, "c": 1.1}, {"a": 1.2, "b": 1.5, "c": 1.3}]
    line = [{"a": 0.9, "b": 1.0, "c": 1.1}, {"a": 1.0, "b": 1.2, "c": 1.2}]
    one = difference([(control[0], line[0])])
    assert one is not None
    gaps = [0.1, 0.4, 0.0]
    assert one.mean == pytest.approx(statistics.fmean(gaps))
    assert one.error == pytest.approx(statistics.stdev(gaps) / math.sqrt(3))
    assert (one.low + one.high) / 2 == pytest.approx(one.mean)
    both = difference(list(zip(control, line, strict=True)))
    assert both is not None
    assert both.mean == pytest.approx(statistics.fmean([*gaps, 0.2, 0.3, 0.1]))
    assert both.seeds == 2
    assert difference([(control[0], dict(control[0]))]) is None
    assert difference([]) is None


LOSS = {
    "untrained": 1.9,
    "full": 1.5,
    "truth": 1.3,
    "random": 1.55,
    "STM": 1.4,
    "fixed": 1.7,
    "XTF": 1.501,
    "random as STM": 1.52,
}


def measured(cell: Cell, line: str, seed: int) -> dict[str, Any]:
    """Figures whose rows differ, more so where the loss is low, so that intervals are not points."""
    losses = {
        f"q{i}": LOSS[line] + 0.1 * math.sin(i) + 0.003 * (i % 5) * LOSS[line] + 0.001 * seed
        for i in range(20)
    }
    trained = line != "untrained"
    noise = {
        "noise": 0.4, "noise_kept": 0.2 if line == "STM" else 0.9, "signal_dropped": 0.1, "precision": 0.5, "recall": 0.5, "f1": 0.5,
        "by_kind": {"wrong": {"recall": 0.4}}, "roc_auc": {"perplexity" if line == "STM" else "excess": 0.2},
    }  # fmt: skip
    return {
        "cell": {"key": cell.key, "kind": cell.kind}, "losses": losses, "likely": {row: 1 / (1 + loss) for row, loss in losses.items()},
        "loss": statistics.fmean(losses.values()), "seconds": 100.0, "commit": "abc", "device": "cpu",
        **({"training": {"steps": 30}, "tokens": {"in_loss": 60, "response": 100, "token_noise": noise}} if trained else {}),
    }  # fmt: skip


@pytest.fixture
def evidence(planned: Callable[..., Plan], cells: Cells) -> Evidence:
    """Two seeds of some lines at 40%, and every token without noise."""
    made = planned(seeds=(0, 1))
    by_key = {cell.key: cell for cell in made.cells}
    for (line, one, percent, seed), key in made.of.items():
        if one == "sums" and percent == 40 and line in LOSS:
            cells.put(key, measured(by_key[key], line, seed))
    quiet = made.of["full", "sums", 0, 0]
    value = measured(by_key[quiet], "truth", 0)
    cells.put(quiet, {**value, "tokens": {"in_loss": 100, "response": 100}})
    cells.put(setting_key(GRID[0], "sums"), {"loss": 1.25, "seconds": 50.0})
    return Evidence(made, cells)


def told(sets: list[DataSet]) -> Told:
    return Told(
        {"versions": "python 3.11.0"},
        sets,
        {"else": "it has no file"},
        base_value(BASE)["train"],
        ["make evidence-real-tokens DATA=FOLDER"],
    )


def test_figures_of_a_line(evidence: Evidence):
    made = figures(evidence, "STM", "sums", 40)
    assert made is not None
    assert (made.loss.n, made.kept.mean if made.kept else None) == (2, 0.6)
    full, random = made.saves["full"], made.saves["random"]
    assert full is not None
    assert random is not None
    assert full.mean == pytest.approx(0.1 * 1.006)
    assert random.mean == pytest.approx(0.15 * 1.006)
    assert made.recovered == pytest.approx(0.5)
    assert made.bounds is not None
    assert made.bounds[0] < 0.5 < made.bounds[1]
    assert made.saves["random as STM"] is not None
    # .4 of the tokens are noise, of which .2 stay, beside .9 of the others.
    assert made.noise_share is not None
    assert made.noise_share.mean == pytest.approx(0.08 / (0.08 + 0.54))
    none = figures(evidence, "DFT", "sums", 40)
    assert none is None
    untrained = figures(evidence, "untrained", "sums", 40)
    assert untrained is not None
    assert (untrained.loss.n, untrained.kept) == (1, None)


def test_what_a_level_shows(evidence: Evidence):
    said = "\n".join(level(evidence, "sums", 40))
    assert "training on every token lowers the loss of clean answers" in said
    assert "noise costs something where every token is learnt" in said
    assert "a perfect mask saves loss over full" in said
    better = next(line for line in said.split("\n") if "better than random" in line)
    assert better.index("`STM`") < better.index("`XTF`") < better.index("worse: `fixed`")
    assert "**better than full**: `STM`" in said
    assert "not shown to differ" not in next(
        line for line in said.split("\n") if "better than random" in line
    )
    assert "`STM` **beats** a random mask of as many tokens" in said
    assert (
        "the method of the lowest loss is `STM`, which saves 50% of what a perfect mask saves"
        in said
    )
    # The scores of STM are high for noise, which is what it masks.
    assert (
        "`fixed` does not beat its control: `excess` takes signal for noise (ROC-AUC 0.20); 90% of the noise stays"
        in said
    )
    assert "`STM` does not beat" not in said
    assert "`XTF` does not beat" not in said  # its own control has not run
    assert level(evidence, "tasks", 40) == []


def test_the_page_is_what_it_was(
    evidence: Evidence, cells: Cells, sets: list[DataSet], golden: Any
):
    golden("evidence/results-real-tokens.md", page(evidence, cells, told(sets)))


def test_a_page_of_nothing_says_so(planned: Callable[..., Plan], cells: Cells, sets: list[DataSet]):
    made = planned()
    written = page(Evidence(made, cells), cells, told(sets))
    assert f"Not run yet: {len(made.cells)} cells" in written
    assert "sums: not chosen yet, so that no line has run." in written
    assert "No line has run." in written


def test_every_line_is_a_method_or_has_another_name():
    assert set(METHODS) | {"untrained", "full", "truth", "random", *SIZED_BY, *MIXED} == set(LINES)
    assert set(OWN_CONTROL) <= set(METHODS)


def test_figures_by_row_are_kept(tmp_path: Path):
    values = {
        "a": {
            "losses": {"q2": 1.25, "q1": 0.5},
            "likely": {"q2": 0.5, "q1": 1.0},
            "right": {"q1": True},
        },
        "b": {"losses": {"q2": 2.0, "q1": 3.0}},
    }
    kept.save(tmp_path / "cells.jsonl", values)
    found = kept.load(tmp_path / "cells.jsonl")
    assert [found["a"]["losses"], found["a"]["likely"], found["a"]["right"]] == list(
        values["a"].values()
    )
    assert list(found["b"]["losses"]) == ["q2", "q1"]
    assert (tmp_path / "cells.jsonl").read_text().count('"ids"') == 2


# --- what is shared ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_line_takes_the_reference_and_the_losses_of_another(
    sets: list[DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = base_value(BASE, ["models.student.model=tiny"])
    made = plan(Wanted((0,), (40,)), sets[:1], base, {}, Files(tmp_path / "data"))
    by_key = {cell.key: cell for cell in made.cells}
    runner = TokenRunner(Cells(tmp_path, "inputs"), base)
    rho = by_key["sums-40-s0-rho"]
    runner(rho)
    alone = runner.cells.get(rho.key)
    assert not (tmp_path / "cells" / rho.key / "run" / "models").exists()
    runner(by_key["sums-40-s0-fixed"])
    trained: list[Path] = []
    whole = LoraTrainer.train

    def train(self: Any, samples: Any, model: Any, out: Path, *rest: Any) -> Any:
        trained.append(out)
        return whole(self, samples, model, out, *rest)

    monkeypatch.setattr(LoraTrainer, "train", train)
    shutil.rmtree(tmp_path / "cells" / rho.key)
    runner(rho)
    runner.close()
    again = runner.cells.get(rho.key)
    assert [out.parent.name for out in trained] == ["adapters"]  # no reference
    assert alone is not None
    assert again is not None
    assert {**again, "seconds": 0, "training_seconds": 0} == {
        **alone,
        "seconds": 0,
        "training_seconds": 0,
    }


# --- the command -----------------------------------------------------------------------------------------------


def test_commands_name_what_decides_figures():
    def words(*given: str) -> list[str]:
        return commands(parser().parse_args(["--data", "/secret/place", *given]))

    assert words() == [
        "make evidence-real-tokens DATA=FOLDER",
        "python -m benchmarks.real_tokens --data FOLDER",
    ]
    assert words("--workers", "1", "--seeds", "0", "--rows", "8,3,4", "--model", "/x/tiny") == [
        "python -m benchmarks.real_tokens --data FOLDER --seeds 0 --rows 8,3,4 --model tiny"
    ]


def test_rows_that_are_no_numbers(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"--rows 1,2: three numbers above 0"):
        main(["--data", str(tmp_path), "--rows", "1,2"])


def test_a_run_from_data_to_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Two lines and what they need, with the model that ships; then the page again, from the kept figures alone."""
    monkeypatch.setattr("benchmarks.real_tokens.plan.GRID", GRID[:1])
    given, keep, report = make(tmp_path / "given"), tmp_path / "cells.jsonl", tmp_path / "page.md"
    words = [
        "--data",
        str(given),
        "--model",
        "tiny",
        "--rows",
        "8,3,4",
        "--quick",
        "--keep",
        str(keep),
        "--results",
        str(report),
    ]
    only = ["--only", "s0-full", "--only", "untrained", "--only", "s0-truth", "--only", "s0-stm"]
    assert main([*words, *only, "--workers", "0", "--out", str(tmp_path / "out")]) == 0
    found = kept.load(keep)
    lines = {key: value for key, value in found.items() if "settings" not in key}
    assert set(lines) == {"sums-untrained", "sums-40-s0-full", "sums-40-s0-truth", "sums-40-s0-stm"}
    assert len(found) == len(lines) + 1
    truth = lines["sums-40-s0-truth"]
    assert truth["tokens"]["token_noise"]["noise_kept"] == 0.0
    assert truth["tokens"]["token_noise"]["signal_dropped"] == 0.0
    assert lines["sums-40-s0-full"]["tokens"]["token_noise"]["noise_kept"] == 1.0
    assert 0.2 < lines["sums-40-s0-full"]["tokens"]["token_noise"]["noise"] < 0.6
    assert len(truth["losses"]) == 4
    assert truth["loss"] == pytest.approx(statistics.fmean(truth["losses"].values()))
    assert truth["losses"] != lines["sums-untrained"]["losses"]
    first = report.read_text()
    assert "| truth | " in first
    assert main([*words, *only, "--render", "--out", str(tmp_path / "elsewhere")]) == 0
    assert report.read_text() == first
    capsys.readouterr()
    assert main([*words, "--plan", "--out", str(tmp_path / "elsewhere")]) == 0
    shown = capsys.readouterr().out
    assert "done    sums-40-s0-truth" in shown
    assert "to run  sums-40-s0-xtf" in shown
