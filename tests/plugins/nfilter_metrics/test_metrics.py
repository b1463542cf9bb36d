"""Metrics of small runs compared with figures computed by hand."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from typing import Any

import pytest

from nfilter import Metric, NoteError
from nfilter_metrics import nfilter_metrics
from nfilter_metrics.classes import Classes, form_of
from nfilter_metrics.detection import Detection
from nfilter_metrics.label_accuracy import Relabel, Views
from nfilter_metrics.model_calls import Calls
from nfilter_metrics.view_flags import ViewFlags

EVERY = pytest.mark.parametrize(
    "metric",
    [metric for cls in nfilter_metrics() if isinstance(metric := cls(), Metric)],
    ids=lambda metric: metric.name,
)


def verdict(flagged: bool, score: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"flagged": flagged, "noise_score": score, "vote": "all", "agree": {}, **more}


def view(answer: str | None) -> dict[str, Any]:
    return {"answer": answer, "text": answer or ""}


@pytest.fixture
def run(judged: Any) -> list[Any]:
    """Six samples: labels A A A B B B, truths A A B B B A (so 2 wrong), and one without a truth."""
    return [
        judged("1", "A", "A", {"check": verdict(False, 0.1), "base": view("A")}),
        judged("2", "A", "A", {"check": verdict(True, 0.6), "base": view("B"), "review": view("A")}),
        judged(
            "3",
            "A",
            "B",
            {"check": verdict(True, 0.9), "base": view("B"), "review": view("B")},
            final="B",
        ),
        judged("4", "B", "B", {"check": verdict(True, 0.6), "base": view(None),
                               "review": view(None)}, dropped="no answer"),
        judged("5", "B", "B", {"check": verdict(False, 0.2), "base": view("B")}),
        judged("6", "B", "A", {"check": verdict(True, 0.6), "base": view("A"), "review": view("B")},
               dropped="low"),
        judged("7", "A", None, {"check": verdict(True, 0.8), "base": view("B"),
                                "review": view("B")}, final="B"),
    ]  # fmt: skip


def test_detection_by_hand(run: list[Any], metric_input: Any) -> None:
    figures = Detection().compute(metric_input(run, verdicts=["check"], views=["base", "other"]))
    # flagged 2 3 4 6 of those with a truth; wrong 3 6
    assert figures["note"] == "check"
    assert (figures["n"], figures["n_truth"], figures["n_scored"]) == (7, 6, 6)
    assert figures["noise_rate"] == pytest.approx(2 / 6)
    assert figures["flagged"] == pytest.approx(5 / 7)
    assert (figures["precision"], figures["recall"]) == (0.5, 1.0)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["mcc"] == pytest.approx((2 * 2 - 2 * 0) / (4 * 2 * 4 * 2) ** 0.5)
    # wrong: .9 .6; right: .1 .6 .6 .2 -> .9 beats 4, .6 beats 2 and ties 2
    assert figures["roc_auc"] == pytest.approx((4 + 2 + 1) / 8)
    # .9 alone: precision 1; then the tie of .6: 2 hits in 4
    assert figures["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    squares = [0.01, 0.36, 0.01, 0.36, 0.04, 0.16]
    assert figures["brier"] == pytest.approx(sum(squares) / 6)
    assert figures["flag_all"] == {"precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5}
    bound = figures["bound"]
    assert bound["view"] == "base"
    # base right on 1 3 5 6 of six; among right labels (1 2 4 5) on 1 5
    assert bound["accuracy"] == pytest.approx(4 / 6)
    assert bound["f1"] == pytest.approx((2 / 3) / (2 / 3 + (2 / 3) * (1 / 3)))
    assert bound["accuracy_where_right"] == 0.5
    assert bound["f1_where_right"] == pytest.approx((2 / 3) / (2 / 3 + (2 / 3) * 0.5))
    assert figures["f1"] <= bound["f1_where_right"] + 1e-12
    assert "by_note" not in figures


def test_several_verdicts(judged: Any, metric_input: Any) -> None:
    rows = [
        judged("1", "A", "A", {"first": verdict(True, 0.9), "second": verdict(False, 0.1)}),
        judged("2", "A", "B", {"first": verdict(True, 0.9), "second": verdict(True, 0.9)}),
        judged("3", "A", "B", {"first": verdict(True, 0.9)}, dropped="early"),
    ]
    figures = Detection().compute(metric_input(rows, verdicts=["first", "second", "never"]))
    assert set(figures["by_note"]) == {"first", "second"}
    assert figures["by_note"]["first"]["precision"] == pytest.approx(2 / 3)
    assert figures["by_note"]["first"]["n"] == 3
    flat = {key: value for key, value in figures.items() if key != "by_note"}
    assert flat == figures["by_note"]["second"]
    assert (flat["n"], flat["precision"], flat["recall"]) == (2, 1.0, 1.0)


def test_bound_is_none_unless_vote_all(run: list[Any], metric_input: Any, judged: Any) -> None:
    assert Detection().compute(metric_input(run, verdicts=["check"]))["bound"] is None
    rows = [judged("1", "A", "B", {"check": verdict(True, 1, vote="any"), "base": view("B")})]
    assert (
        Detection().compute(metric_input(rows, verdicts=["check"], views=["base"]))["bound"] is None
    )
    # the bound ignores views that the check did not use
    rows = [
        judged(
            "1",
            "A",
            "B",
            {
                "check": verdict(True, 1, agree={"base": False}),
                "near": view("A"),
                "base": view("B"),
            },
        )
    ]
    figures = Detection().compute(metric_input(rows, verdicts=["check"], views=["near", "base"]))
    assert figures["bound"]["view"] == "base"
    assert figures["bound"]["f1_where_right"] is None


def test_without_truth_only_the_flagged_share_is_computed(judged: Any, metric_input: Any) -> None:
    rows = [
        judged(str(n), "A", None, {"check": verdict(n == 0, 0.5), "base": view("A")})
        for n in range(4)
    ]
    data = metric_input(rows, verdicts=["check"], views=["base"], proposes=["review"])
    figures = Detection().compute(data)
    assert (figures["n"], figures["n_truth"], figures["flagged"]) == (4, 0, 0.25)
    rest = figures.keys() - {"note", "n", "n_truth", "n_scored", "flagged", "flag_all"}
    assert all(figures[key] is None for key in rest)
    assert figures["flag_all"] == {"precision": None, "recall": None, "f1": None}
    relabel = Relabel().compute(data)
    assert (relabel["before"], relabel["after"], relabel["kept"]) == (None, None, 1.0)
    views = Views().compute(data)
    assert views["base"]["accuracy"] is None
    assert views["base"]["no_answer"] == 0.0
    json.dumps([figures, relabel, views], allow_nan=False)


@pytest.mark.parametrize("score", [None, float("nan"), True, "0.3", 1.5])
def test_a_malformed_score_raises_with_sample_and_field(
    judged: Any, metric_input: Any, score: Any
) -> None:
    rows = [
        judged("good", "A", "A", {"check": verdict(False, 0.2)}),
        judged("odd", "A", "A", {"check": verdict(False, score)}),
    ]
    with pytest.raises(NoteError, match="sample 'odd': note 'check' is not a verdict: noise_score"):
        Detection().compute(metric_input(rows, verdicts=["check"]))


def test_without_scikit_learn_its_figures_are_none_and_a_warning_names_the_package(
    run: list[Any], metric_input: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    data = replace(metric_input(run, verdicts=["check"], views=["base"]), warn=said.append)
    full = Detection().compute(data)
    assert said == []
    monkeypatch.setitem(sys.modules, "sklearn", None)
    figures = Detection().compute(data)
    missing = {"mcc", "roc_auc", "average_precision", "brier"}
    assert all(figures[key] is None and full[key] is not None for key in missing)
    assert {key: value for key, value in figures.items() if key not in missing} == {
        key: value for key, value in full.items() if key not in missing
    }
    (text,) = said
    assert text == (
        "mcc, roc_auc, average_precision and brier are not computed: detection needs the package sklearn, which is not "
        "installed: pip install 'scikit-learn'"
    )


def test_relabel_by_hand(run: list[Any], metric_input: Any) -> None:
    figures = Relabel().compute(
        metric_input(run, verdicts=["check"], proposes=["context", "review"])
    )
    # flagged 2 3 4 6 7; proposals right on 2 3, wrong on 6, none on 4 (counts as not right), no truth on 7
    assert figures["flagged"] == 5
    assert figures["before"] == 0.5
    # kept of the flagged: 2 3 7; labels right on 2 3
    assert figures["after"] == 1.0
    assert figures["kept"] == pytest.approx(3 / 5)
    # labels were right on 1 2 4 5 of six; kept with truth 1 2 3 5, all right
    assert figures["labels_before"] == pytest.approx(4 / 6)
    assert figures["labels_after"] == 1.0
    of = figures["of"]
    assert {name: part["n"] for name, part in of.items()} == {
        "before": 4, "after": 2, "kept": 5, "labels_before": 6, "labels_after": 4,
    }  # fmt: skip
    assert (round(of["before"]["low"], 3), round(of["before"]["high"], 3)) == (0.150, 0.850)
    assert all(part["value"] == figures[name] for name, part in of.items())


def test_last_proposal_wins(judged: Any, metric_input: Any) -> None:
    notes = {"check": verdict(True), "context": view("B"), "review": view("A")}
    data = metric_input(
        [judged("1", "C", "A", notes, final="A")],
        verdicts=["check"],
        proposes=["context", "review"],
    )
    assert Relabel().compute(data)["before"] == 1.0
    swapped = metric_input(data.judged, verdicts=["check"], proposes=["review", "context"])
    assert Relabel().compute(swapped)["before"] == 0.0


def test_later_verdict_overrides_earlier(judged: Any, metric_input: Any) -> None:
    notes = {"first": verdict(True), "second": verdict(False)}
    rows = [judged("1", "A", "A", notes), judged("2", "A", "A", {"first": verdict(True)})]
    assert Relabel().compute(metric_input(rows, verdicts=["first", "second"]))["flagged"] == 1


def test_views_by_hand(run: list[Any], metric_input: Any) -> None:
    figures = Views().compute(metric_input(run, views=["base", "review", "absent"]))
    assert set(figures) == {"base", "review"}
    base = figures["base"]
    # right on 1 3 5 6 of six with a truth, no answer on 4; seven have the view
    assert (base["n"], base["n_seen"]) == (6, 7)
    assert base["accuracy"] == pytest.approx(4 / 6)
    assert base["accuracy_answered"] == pytest.approx(4 / 5)
    assert base["no_answer"] == pytest.approx(1 / 7)
    assert base["low"] < base["accuracy"] < base["high"]
    assert (figures["review"]["n"], figures["review"]["accuracy"]) == (4, 0.5)


def test_view_flags_by_hand(judged: Any, metric_input: Any) -> None:
    """Labels 1 and 2 are wrong. One view contradicts 1 and 3, the other has no answer to 1 and contradicts 2."""
    rows = [
        judged("1", "A", "B", {"check": verdict(True, agree={"one": False, "two": None})}),
        judged("2", "A", "B", {"check": verdict(False, agree={"one": True, "two": False})}),
        judged("3", "A", "A", {"check": verdict(False, agree={"one": False, "two": True})}),
        judged("4", "A", "A", {"check": verdict(False, agree={"one": True, "two": True})}),
        judged("5", "A", None, {"check": verdict(True, agree={"one": False, "two": False})}),
        judged("6", "A", "B", {}),
    ]
    figures = ViewFlags().compute(metric_input(rows, verdicts=["check"]))
    assert figures["one"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "flagged": 0.5, "n": 4}
    assert figures["two"] == {
        "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "flagged": 0.25, "n": 4
    }  # fmt: skip


def test_answers_that_cannot_be_compared_are_excluded(judged: Any, metric_input: Any) -> None:
    data = metric_input([judged("1", "A", "A", {"base": view("A")})], views=["base"])
    data.answer_is_right["base"]["1"] = None
    assert Views().compute(data)["base"]["n"] == 0


def test_calls_by_hand(run: list[Any], metric_input: Any) -> None:
    data = metric_input(
        run, calls={"answer": 7, "reason": 28}, tokens={"answer": 70, "reason": 700, "relabel": 7}
    )
    figures = Calls().compute(data)
    assert figures["calls"] == 35
    assert figures["calls_per_sample"] == 5.0
    assert figures["tokens_per_sample"] == 111.0
    assert figures["by_stage"]["reason"]["calls_per_sample"] == 4.0
    assert figures["by_stage"]["relabel"] == {
        "calls": 0, "tokens": 7, "calls_per_sample": 0.0, "tokens_per_sample": 1.0,
    }  # fmt: skip


def test_calls_saved_by_hand(judged: Any, metric_input: Any) -> None:
    skipped = {"answer": None, "calls": 0, "skipped": "settled"}
    rows = [
        judged("1", "A", "A", {"base": {"answer": "A", "calls": 1}, "reasoning": {**skipped, "saved": 9}}),
        judged("2", "A", "A", {"base": {**skipped, "saved": 1}, "reasoning": {"answer": "A", "calls": 3, "saved": 6}}),
        judged("3", "A", "B", {"reasoning": {"answer": "A", "calls": 9, "saved": 0}, "review": {"answer": "B", "calls": 0, "saved": 1}}, dropped="x"),
        judged("4", "A", "B", {"reasoning": {"answer": "B", "calls": 5, "saved": 4}, "review": {"answer": "B", "calls": 2}, "other": {"saved": 50}}),
    ]  # fmt: skip
    figures = Calls().compute(metric_input(rows, views=["base", "reasoning", "review"]))["saved"]
    assert figures == {
        "n": 4, "calls": 21, "calls_per_sample": 5.25, "skipped": 10, "stopped": 10, "adopted": 1,
        "by_note": {"base": 1, "reasoning": 19, "review": 1},
    }  # fmt: skip
    assert Calls().compute(metric_input([], views=["base"]))["saved"] is None


@EVERY
def test_empty_input_raises_nothing(metric: Any, metric_input: Any) -> None:
    json.dumps(metric.compute(metric_input([])), allow_nan=False)
    json.dumps(
        metric.compute(metric_input([], verdicts=["c"], views=["v"], proposes=["p"])),
        allow_nan=False,
    )


@pytest.mark.parametrize(
    "odd", [None, 1, "x", [], {}, {"flagged": 1}, {"flagged": None, "answer": 3}]
)
@pytest.mark.parametrize(
    ("metric", "names", "kind"),
    [
        (Detection(), {"verdicts": ["n"]}, "verdict"),
        (Relabel(), {"verdicts": ["n"]}, "verdict"),
        (Relabel(), {"verdicts": ["c"], "proposes": ["n"]}, "proposal"),
        (Views(), {"views": ["n"]}, "view"),
        (Calls(), {"views": ["n"]}, "view"),
    ],
)  # fmt: skip
def test_a_malformed_note_raises_with_its_name(
    metric: Any, names: Any, kind: str, odd: Any, metric_input: Any, judged: Any
) -> None:
    rows = [judged("s", "A", "A", {"c": verdict(True, 0.5), "n": odd})]
    with pytest.raises(NoteError, match=f"sample 's': note 'n' is not a {kind}: "):
        metric.compute(metric_input(rows, **names))


def test_sample_order_does_not_change_figures(run: list[Any], metric_input: Any) -> None:
    for metric in (Detection(), Relabel(), Views()):
        seen = set()
        for seed in range(5):
            rows = list(run)
            random.Random(seed).shuffle(rows)
            data = metric_input(rows, verdicts=["check"], views=["base"], proposes=["review"])
            seen.add(json.dumps(rounded(metric.compute(data)), sort_keys=True))
        assert len(seen) == 1


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 12) if isinstance(value, float) else value


def test_metric_names() -> None:
    assert [cls.name for cls in nfilter_metrics()] == [
        "detection",
        "relabel",
        "classes",
        "views",
        "view_flags",
        "calls",
        "token_noise",
    ]


def test_right_labels_by_class_by_hand(run: list[Any], metric_input: Any) -> None:
    figures = Classes().compute(metric_input(run))
    # Truth A: 1 and 2 right and kept, 6 wrong and dropped. Truth B: 3 wrong and mended, 4 right and dropped, 5 right and kept.
    assert figures == {
        "by": "answer",
        "groups": {
            "A": {"n": 3, "right_before": 2, "kept": 2, "right_after": 2, "lost": 0},
            "B": {"n": 3, "right_before": 2, "kept": 2, "right_after": 2, "lost": 1},
        },
    }


def test_a_right_label_that_becomes_wrong_is_lost(judged: Any, metric_input: Any) -> None:
    rows = [judged("1", "A", "A", final="B"), judged("2", "A", "A"), judged("3", "A", None)]
    (group,) = Classes().compute(metric_input(rows))["groups"].values()
    assert group == {"n": 2, "right_before": 2, "kept": 2, "right_after": 1, "lost": 1}
    assert Classes().compute(metric_input(rows[2:])) == {}


def test_classes_are_few_and_their_figures_add_up(judged: Any, metric_input: Any) -> None:
    def groups(truths: list[str]) -> tuple[str, dict[str, int]]:
        rows = [judged(str(n), truth, truth) for n, truth in enumerate(truths)]
        found = Classes().compute(metric_input(rows))
        return found["by"], {name: each["n"] for name, each in found["groups"].items()}

    assert groups(["x", "y", "x", "z", "x", "y"]) == ("answer", {"x": 3, "y": 2, "z": 1})
    assert groups([str(n) for n in range(10)]) == ("form", {"whole number": 10})
    assert groups([f"a class {n % 40}" for n in range(80)])[0] == "answer"
    assert groups([f"a class {n % 41}" for n in range(82)])[0] == "form"
    assert groups(["long " * 20] * 4) == ("form", {"more than 10 words": 4})


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("12", "whole number"), ("-3", "whole number"), ("3/4", "other number"), ("0.5", "other number"), ("2e99999999", "other number"),
        ("Paris", "one word"), ("", "one word"), ("in New York", "2 to 10 words"), ("w " * 11, "more than 10 words"),
    ],
)  # fmt: skip
def test_the_form_of_an_answer(answer: str, form: str) -> None:
    assert form_of(answer) == form
