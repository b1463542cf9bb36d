"""Metrics ``relabel`` and ``views``: accuracy of proposed labels, kept labels and view answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from nfilter import JSON, Judged, MetricInput, Proposal, View, wilson
from nfilter_metrics.statistics import ratio
from nfilter_metrics.view_flags import last_verdict


def _share(outcomes: Iterable[bool]) -> dict[str, JSON]:
    """Return a share (``value``), its sample size ``n``, and its 95% Wilson interval (``low``, ``high``)."""
    hits = list(outcomes)
    k, n = sum(hits), len(hits)
    bounds = wilson(k, n)
    low, high = bounds if bounds is not None else (None, None)
    return {"value": ratio(k, n), "n": n, "low": low, "high": high}


class Relabel:
    """Accuracy of the labels of samples that the last verdict flagged.

    ``before``: share of right proposals among flagged samples with a proposal, before selection; a proposal without
    an answer counts as wrong. ``after``: share of right labels among flagged samples that were kept. ``kept``: share
    of flagged samples that were kept. ``labels_before``, ``labels_after``: share of right labels in the source and
    among all kept samples. ``of`` adds n and interval. All except ``kept`` use samples with known truth only.
    """

    name: ClassVar[str] = "relabel"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        if not data.verdicts or not data.judged:
            return {}
        verdicts = ((judged, last_verdict(data, judged.final)) for judged in data.judged)
        flagged = [judged for judged, last in verdicts if last is not None and last.flagged]
        kept = [judged for judged in flagged if judged.final.dropped is None]
        parts = {
            "before": _share(_not_none(_proposal_is_right(judged, data) for judged in flagged)),
            "after": _share(_not_none(judged.label_is_right for judged in kept)),
            "kept": _share(judged.final.dropped is None for judged in flagged),
            "labels_before": _share(_not_none(judged.label_was_right for judged in data.judged)),
            "labels_after": _share(
                _not_none(j.label_is_right for j in data.judged if j.final.dropped is None)
            ),
        }
        values: dict[str, JSON] = {name: part["value"] for name, part in parts.items()}
        return {"flagged": len(flagged), **values, "of": parts}


def _not_none(outcomes: Iterable[bool | None]) -> Iterable[bool]:
    return (outcome for outcome in outcomes if outcome is not None)


def _proposal_is_right(judged: Judged, data: MetricInput) -> bool | None:
    """Return whether the last proposed label is right; None without a proposal or a known truth."""
    for name in reversed(data.proposes):
        proposal = Proposal.of(judged.final, name)
        if proposal is not None:
            return _is_right(judged, name, proposal.answer, data)
    return None


def _is_right(judged: Judged, name: str, answer: str | None, data: MetricInput) -> bool | None:
    """Return whether ``answer``, of the note ``name``, is right; a missing answer is wrong. None without a known truth."""
    if judged.truth is None:
        return None
    if answer is None:
        return False
    return data.answer_is_right.get(name, {}).get(judged.final.id)


class Views:
    """Accuracy of each view's answers, over samples with known truth.

    Skipped samples are excluded, which leaves the harder ones. A view without a vote (no better than chance) is
    omitted. ``accuracy`` counts a missing answer as wrong, ``accuracy_answered`` excludes it; ``no_answer`` is the
    share of missing answers over all samples with the view.
    """

    name: ClassVar[str] = "views"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        return {
            name: figures
            for name in data.views
            if (figures := _view_accuracy(data, name)) is not None
        }


def _view_accuracy(data: MetricInput, name: str) -> Mapping[str, JSON] | None:
    answers = [
        (judged, view.answer)
        for judged in data.judged
        if (view := View.of(judged.final, name)) is not None and view.asked
    ]
    if not answers:
        return None
    outcomes = ((answer, _is_right(judged, name, answer, data)) for judged, answer in answers)
    known = [(answer is not None, hit) for answer, hit in outcomes if hit is not None]
    share = _share(hit for _, hit in known)
    return {
        "accuracy": share["value"],
        "n": share["n"],
        "low": share["low"],
        "high": share["high"],
        "accuracy_answered": _share(hit for answered, hit in known if answered)["value"],
        "no_answer": ratio(sum(answer is None for _, answer in answers), len(answers)),
        "n_seen": len(answers),
    }
