"""Metric ``detection``: verdicts compared with the true labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nfilter import JSON, MetricInput, Verdict
from nfilter_metrics.statistics import (
    MISSING,
    Counts,
    average_precision,
    brier,
    ratio,
    roc_auc,
    scikit_learn,
    vote_all_bound,
)


@dataclass(frozen=True, slots=True)
class _Judged:
    id: str
    verdict: Verdict
    wrong: bool | None


class Detection:
    """Binary classification metrics of each verdict note; a wrong label is a positive.

    The top-level figures are those of the last verdict note (``note``); with several notes, ``by_note`` lists all.
    ``n`` counts samples with a verdict and ``n_truth`` those with known truth; every figure except ``flagged`` uses
    ``n_truth``. ``bound`` is None unless ``vote: all``. Its ``f1`` uses the view's accuracy over all samples
    (RobustFT's direct accuracy); ``f1_where_right`` uses its accuracy over right labels and is a strict upper bound.
    """

    name: ClassVar[str] = "detection"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        """Return the figures; those of scikit-learn are None, with a warning, where it is not installed."""
        by_note: dict[str, dict[str, JSON]] = {}
        for note in data.verdicts:
            verdicts = _verdicts(data, note)
            if verdicts:
                by_note[note] = _metrics(data, note, verdicts)
        if not by_note:
            return {}
        if scikit_learn() is None:
            data.warn(
                f"mcc, roc_auc, average_precision and brier are not computed: detection {MISSING}"
            )
        last = list(by_note.values())[-1]
        return last if len(by_note) == 1 else {**last, "by_note": by_note}


def _verdicts(data: MetricInput, note: str) -> list[_Judged]:
    found = []
    for judged in data.judged:
        verdict = Verdict.of(judged.final, note)
        if verdict is not None:
            right = judged.label_was_right
            found.append(_Judged(judged.final.id, verdict, None if right is None else not right))
    return found


def _metrics(data: MetricInput, note: str, verdicts: Sequence[_Judged]) -> dict[str, JSON]:
    known = [(each.verdict, each.wrong) for each in verdicts if each.wrong is not None]
    wrong = [w for _, w in known]
    counts = Counts.of(wrong, [verdict.flagged for verdict, _ in known])
    everything = Counts.of(wrong, [True] * len(wrong))
    scores = [float(verdict.noise_score) for verdict, _ in known]
    noise_rate = ratio(sum(wrong), len(wrong))
    return {
        "note": note,
        "n": len(verdicts),
        "n_truth": len(known),
        "n_scored": len(scores),
        "noise_rate": noise_rate,
        "flagged": ratio(sum(each.verdict.flagged for each in verdicts), len(verdicts)),
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "mcc": counts.mcc,
        "roc_auc": roc_auc(wrong, scores),
        "average_precision": average_precision(wrong, scores),
        "brier": brier(wrong, scores),
        "flag_all": {
            "precision": everything.precision,
            "recall": everything.recall,
            "f1": everything.f1,
        },
        "bound": _vote_all_bound(data, verdicts, noise_rate),
    }


def _vote_all_bound(
    data: MetricInput, verdicts: Sequence[_Judged], noise_rate: float | None
) -> Mapping[str, JSON] | None:
    if noise_rate is None or any(each.verdict.vote != "all" for each in verdicts):
        return None
    used = set(verdicts[0].verdict.agree or ())
    view = next((name for name in data.views if not used or name in used), None)
    if view is None:
        return None
    answers = data.answer_is_right.get(view, {})
    # A missing answer agrees with no label, so the rule treats it as a wrong answer.
    hits = [(v.wrong, answers.get(v.id) is True) for v in verdicts if v.wrong is not None]
    clean = [hit for wrong, hit in hits if not wrong]
    accuracy = ratio(sum(hit for _, hit in hits), len(hits))
    accuracy_where_right = ratio(sum(clean), len(clean))
    return {
        "view": view,
        "accuracy": accuracy,
        "f1": None if accuracy is None else vote_all_bound(noise_rate, accuracy),
        "accuracy_where_right": accuracy_where_right,
        "f1_where_right": None
        if accuracy_where_right is None
        else vote_all_bound(noise_rate, accuracy_where_right),
    }
