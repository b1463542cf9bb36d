"""The closing screen: figures from the metrics, nulls in words, commands that work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from nfilter.report import explain as explain_module
from nfilter.report.summary import pointers, summarise

RUN, GROUP = Path("runs/sums"), Path("runs/group")


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((path / "metrics.json").read_text())
    return value


def say(shown: Any, path: Path, metrics: Any) -> str:
    return str(shown(lambda console: summarise(path, metrics, console)))


@pytest.mark.types("add --seeds 0,1,2")
@pytest.mark.parametrize(("name", "path"), [("summary", RUN), ("summary-group", GROUP)])
def test_screen(name, path, world, shown, golden):
    screen = say(shown, path, read(path))
    golden(f"report/{name}.txt", screen)
    lines = screen.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    wider = " ".join(screen.split())
    assert ("add --seeds 0,1,2" in wider) == (path == RUN)  # the group was run with several


def without(metrics: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        where, _, key = name.rpartition(".")
        target = metrics[where] if where else metrics
        target[key] = None
    return metrics


def test_no_null_is_shown_as_such(world, shown):
    metrics = without(
        read(RUN), "recovered", "gain", "recovered_vanilla", "detection.precision", "detection.recall",
        "detection.f1", "detection.roc_auc", "relabel.before", "relabel.after", "relabel.kept",
        "relabel.labels_before", "relabel.labels_after", "calls_per_sample",
    )  # fmt: skip
    screen = say(shown, RUN, metrics)
    assert "None" not in screen
    assert "nan" not in screen
    for words in (
        "precision undefined, no label was flagged", "recall undefined, no label is wrong",
        "no new label was proposed", "not counted",
    ):  # fmt: skip
        assert words in " ".join(screen.split())


@pytest.mark.parametrize(
    ("mean", "error", "said"),
    [
        (
            0.02,
            0.01,
            "undefined: truth is 0.020 above raw, which may be chance (three standard errors are 0.030)",
        ),
        (-0.01, 0.01, "undefined: truth is no better than raw (-0.010)"),
    ],
)
def test_why_there_is_no_ratio(mean, error, said, world, shown):
    metrics = without(read(RUN), "recovered", "recovered_vanilla")
    metrics["comparisons"]["truth_minus_raw"].update(mean=mean, standard_error=error)
    assert f"recovered {said}" in " ".join(say(shown, RUN, metrics).split())


def test_an_arm_that_is_missing_is_named(world, shown):
    metrics = without(read(RUN), "recovered", "recovered_vanilla", "gain")
    del metrics["arms"]["truth"]
    for name in ("truth_minus_raw", "truth_minus_vanilla"):
        del metrics["comparisons"][name]
    screen = " ".join(say(shown, RUN, metrics).split())
    assert "recovered not measured: it needs the arm truth" in screen


def test_without_truth_and_without_arms(world, shown):
    metrics = {key: read(RUN)[key] for key in ("name", "seeds", "samples", "calls_per_sample")}
    screen = " ".join(say(shown, RUN, metrics).split())
    assert "wrong labels not estimated: no stage of the recipe estimates" in screen
    metrics["stages"] = {"02-peers.check": {"not_asked": {"peers": 3}}}
    lazy = " ".join(say(shown, RUN, metrics).split())
    assert "not estimated: some views did not answer every row" in lazy
    assert f"detection not measured: the true labels are unknown; `nfilter audit {RUN}`" in screen
    assert "no arm was evaluated" in screen
    assert "None" not in screen


@pytest.mark.parametrize(
    ("relabel", "said"),
    [
        (
            {"flagged": 841, "before": None, "after": None, "kept": 0.0},
            "no new label was proposed, all 841 flagged rows were dropped",
        ),
        (
            {"flagged": 1, "before": 1.0, "after": None, "kept": 0.0},
            "100.0% before selection, the one flagged row was dropped",
        ),
        ({"flagged": 0, "before": None, "after": None, "kept": None}, "no label was flagged"),
        (
            {"flagged": 8, "before": 0.5, "after": 0.75, "kept": 0.5},
            "50.0% before selection, 75.0% after it, 50.0% of the flagged rows kept",
        ),
    ],
)
def test_what_became_of_flagged_rows_is_said_in_words(relabel, said, world, shown):
    metrics = read(RUN)
    metrics["relabel"].update(relabel)
    assert f"new labels right {said} all labels" in " ".join(say(shown, RUN, metrics).split())


@pytest.mark.parametrize(
    ("count", "relabelled", "dropped"),
    [
        (0, "none", "none"),
        (1, "1 of the kept rows", "1, with reasons in dropped.jsonl"),
        (2000, "2,000 of the kept rows", "2,000, with reasons in dropped.jsonl"),
    ],
)
def test_counts_of_rows_are_said_in_words(count, relabelled, dropped, world, shown):
    metrics = read(RUN)
    metrics["samples"].update(relabelled=count, dropped=count)
    screen = " ".join(say(shown, RUN, metrics).split())
    assert f"relabelled {relabelled} dropped {dropped} kept 22" in screen


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (0.0, "none: no stage called a model"),
        (0.0001, "below 0.001 (1.0e-04)"),
        (1.0, "1.000"),
    ],
)
def test_no_call_is_said_in_words(calls, said, world, shown):
    metrics = {**read(RUN), "calls_per_sample": calls}
    assert f"calls per sample {said} time" in " ".join(say(shown, RUN, metrics).split())


def test_a_share_below_nothing_is_said_in_words(world, shown):
    metrics = read(RUN)
    metrics["comparisons"]["cleaned_minus_raw"]["mean"] = -0.012
    metrics["comparisons"]["cleaned_minus_vanilla"]["mean"] = -0.5
    metrics.update(recovered=-0.04, recovered_vanilla=0.25, gain=-0.5)
    screen = " ".join(say(shown, RUN, metrics).split())
    assert "recovered none: cleaned is 0.012 below raw" in screen
    assert "no training 0.25 [-7.10, -0.94] recovered" in screen
    assert "gain none: cleaned is 0.500 below vanilla" in screen


def test_how_the_arms_were_trained_is_told(world, shown):
    alike = {"batch_size": 16, "epochs": 2, "lr": 5.4e-4}
    metrics = read(RUN)
    metrics["training"] = {
        "cleaned": {"steps": 94, **alike}, "raw": {"steps": 200, **alike},
    }  # fmt: skip
    screen = " ".join(say(shown, RUN, metrics).split())
    assert (
        "trained optimiser steps: raw 200, cleaned 94; batch_size 16, epochs 2, lr 0.00054"
        in screen
    )
    metrics["training"]["cleaned"].update(steps=60, epochs=6)
    screen = " ".join(say(shown, RUN, metrics).split())
    assert "raw 200 (epochs 2), cleaned 60 (epochs 6); batch_size 16, lr 0.00054" in screen


def test_what_token_stages_took_out_is_told(world, shown):
    stages = {
        "1-cut.scores": {"masked": 0},
        "2-cut.low": {"masked": 30.5},
        "3-cut.low": {"masked": 4},
    }
    metrics = {**read(RUN), "tokens": {"response": 1200, "in_loss": 1165.5, "stages": stages}}
    screen = " ".join(say(shown, RUN, metrics).split())
    assert "tokens 1,166 of 1,200 are in the loss; cut.low masked 30; cut.low masked 4" in screen


def test_the_commands_name_rows_that_are_there(world):
    rows = {}
    for line in pointers(RUN):
        found = re.match(r"nfilter explain (.*?)    # (\w+)$", line)
        if found:
            run, sample_id = shlex.split(found[1])
            rows[found[2]] = explain_module.explain(Path(run), sample_id)
    assert rows["dropped"].status == "dropped"
    assert rows["relabelled"].status == "kept"
    assert rows["relabelled"].label != rows["relabelled"].label_now


def test_odd_ids_are_quoted(world, written):
    rows = (RUN / "dropped.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    for odd, quoted in (("a b; rm 'x'", "'a b; rm '\"'\"'x'\"'\"''"), ("-5", "-- -5")):
        (RUN / "dropped.jsonl").write_text(json.dumps({**first, "id": odd}) + "\n")
        written(RUN)
        line = next(line for line in pointers(RUN) if "# dropped" in line)
        assert line.startswith(f"nfilter explain runs/sums {quoted}    #")
