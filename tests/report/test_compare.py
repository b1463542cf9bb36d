"""Runs side by side, and what stands against comparing them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter.api.errors import DamageError, StoreError
from nfilter.report import compare as subject

RUN, GROUP, OTHER = Path("runs/sums"), Path("runs/group"), Path("runs/other")


@pytest.fixture
def other(world: Path) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(RUN, OTHER)
    return OTHER


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = (
        json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    )
    change(value)
    path.write_text(json.dumps(value) if path.suffix == ".json" else yaml.safe_dump(value))


def touched(run: Path) -> None:
    """The source's fingerprint is another one."""
    edit(run / "manifest.json", lambda value: value["fingerprints"].update(source="another"))


@pytest.fixture
def compare(written: Any) -> Any:
    """Compares runs as they would be if what a test wrote into their files were the run's."""

    def resealed(runs: list[Path]) -> Any:
        for run in runs:
            if run.is_dir():
                written(run)
        return subject.compare(runs)

    return resealed


def test_table(world, shown, golden):
    table = subject.compare([RUN, GROUP])
    golden("report/compare.txt", shown(subject.render, table))
    # The last digits of an interval differ from one processor to another.
    figures = json.loads(
        json.dumps(subject.as_json(table)), parse_float=lambda text: round(float(text), 9)
    )
    golden("report/compare.json", json.dumps(figures, indent=1) + "\n")
    assert table.notes == []


def test_figures_are_those_of_the_metrics(world):
    metrics = json.loads((RUN / "metrics.json").read_text())
    table = subject.as_json(subject.compare([RUN]))["figures"]
    assert table["detection.f1"][0]["mean"] == metrics["detection"]["f1"]
    assert table["arms.cleaned"][0] == {
        "mean": metrics["arms"]["cleaned"]["mean"], "sd": None, "n": 1, "low": None, "high": None,
    }  # fmt: skip
    assert table["estimated_noise_rate"][0] == {
        "mean": 0.35,
        "sd": None,
        "n": 1,
        "low": 0.21,
        "high": 0.52,
    }
    assert table["gain"][0]["mean"] == metrics["gain"]


def test_a_group_shows_mean_sd_and_n(world, compare):
    def seeds(value: Any) -> None:
        value["arms"]["raw"].update(mean=0.5, sd=0.0123, n=5)
        value["spread"]["detection.f1"] = {"mean": 0.5, "sd": 0.25, "n": 5}
        # The ratio of the means, and the spread of the ratios.
        value["gain"] = 0.4
        value["spread"]["gain"] = {"mean": 0.9, "sd": 0.1, "n": 5}

    edit(GROUP / "metrics.json", seeds)
    rows = {row.name: row.cells[0] for row in compare([GROUP]).rows}
    assert subject.show(rows["arms.raw"]) == "0.500 ± 0.012 (5)"
    assert subject.show(rows["detection.f1"]) == "1.000 ± 0.250 (5)"
    assert subject.show(rows["gain"]) == "0.400 ± 0.100 (5)"


def test_what_a_run_does_not_have_is_a_dash(other, shown, compare):
    def forget(value: Any) -> None:
        del value["detection"], value["arms"]["truth"]
        value["gain"] = None

    edit(OTHER / "metrics.json", forget)
    table = compare([RUN, OTHER])
    cells = {row.name: [subject.show(cell) for cell in row.cells] for row in table.rows}
    assert cells["detection.f1"] == ["1.000", "-"]
    assert cells["arms.truth"] == ["1.000", "-"]
    assert cells["gain"][1] == "-"
    assert "None" not in shown(subject.render, table)
    assert [row.name for row in compare([OTHER]).rows if row.cells[0] is None] == []


def test_equal_runs_and_other_seeds_are_comparable(other, compare):
    touched(OTHER)
    edit(OTHER / "recipe.lock.yaml", lambda value: value.update(seed=7))
    assert compare([RUN, OTHER, GROUP]).notes == []


def test_other_rows_are_not_comparable(other, shown, compare):
    touched(OTHER)
    path = OTHER / "00-source" / "chunk-000000.jsonl"
    path.write_text(path.read_text().replace('"1+2"', '"1+3"'))
    table = compare([RUN, OTHER])
    assert table.notes == ["runs/sums and runs/other: the source rows differ"]
    assert "not comparable: runs/sums and runs/other: the source rows" in shown(
        subject.render, table
    )
    # The fingerprint alone is read where it is the same: no row is.
    edit(OTHER / "manifest.json", lambda value: value["fingerprints"].update(
        source=json.loads((RUN / "manifest.json").read_text())["fingerprints"]["source"]))  # fmt: skip
    assert compare([RUN, OTHER]).notes == []


def test_other_labels_other_noise(other, compare):
    touched(OTHER)
    path = OTHER / "00-source" / "chunk-000000.jsonl"
    path.write_text(path.read_text().replace('["assistant", "3"]', '["assistant", "4"]'))
    assert compare([RUN, OTHER]).notes == [
        "runs/sums and runs/other: the questions are equal and the labels differ"
    ]
    edit(OTHER / "recipe.lock.yaml", lambda value: value["source"].update(noise={"ratio": 0.3}))
    assert 'the injected noise differs (none and {"ratio": 0.3})' in compare([RUN, OTHER]).notes[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["evaluate"].update(max_tokens=4), "evaluate.max_tokens 16 and 4"),
        (lambda v: v["answer"].update(kind="exact"), "answer: number and exact"),
        (
            lambda v: v["lock"]["models"].update(student="0"),
            "differ in weights or settings (number format, device, chat template)",
        ),
        (
            lambda v: (
                v["models"]["student"].update(model="b"),
                v["lock"]["models"].update(student="0"),
            ),
            "the trained models differ (student and b)",
        ),
        (
            lambda v: v["lock"]["models"].clear(),
            "it is unknown whether the same model was trained: runs/other does not record it",
        ),
        (lambda v: v.pop("train"), "no model was trained in runs/other"),
    ],
)
def test_other_ways_of_examining(other, change, said, compare):
    edit(OTHER / "recipe.lock.yaml", change)
    (note,) = compare([RUN, OTHER]).notes
    assert said in note


def test_a_model_that_is_named_otherwise_is_the_same_model(other, compare):
    edit(OTHER / "recipe.lock.yaml", lambda v: v["models"]["student"].update(model="../elsewhere"))
    assert compare([RUN, OTHER]).notes == []


def test_other_test_rows(other, compare):
    for path in (OTHER / "evaluation").glob("*.jsonl"):
        path.write_text("\n".join(path.read_text().splitlines()[1:]))
    (note,) = compare([RUN, OTHER]).notes
    assert "the test rows differ" in note


def test_a_run_without_figures_is_an_error_that_says_so(other, compare):
    for name in ("metrics.json", "manifest.json"):
        (OTHER / name).unlink()
    with pytest.raises(StoreError, match="the run has not ended; run the same command to resume"):
        compare([RUN, OTHER])
    with pytest.raises(StoreError, match="not a run"):
        compare([Path("nowhere")])


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (RUN / "metrics.json", "nfilter run RECIPE --out runs/sums`"),
        (GROUP / "metrics.json", "nfilter run RECIPE --out runs/group --seeds ...`"),
        (GROUP / "seed-0" / "recipe.lock.yaml", "nfilter run RECIPE --out runs/group --seeds ...`"),
    ],
)
def test_damage_is_named_with_the_command_that_mends_it(world, file, command):
    file.write_text(file.read_text().replace("1", "2", 1))
    with pytest.raises(DamageError) as caught:
        subject.compare([RUN, GROUP])
    assert str(caught.value).startswith(f"{file}: has other bytes than were written; ")
    assert command in str(caught.value)
