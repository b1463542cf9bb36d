"""Whether new labels, kept labels and the views' own answers are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from nfilter import JSON, Judged, MetricInput, wilson
from nfilter_metrics.figures import ratio


def _share(outcomes: Iterable[bool]) -> dict[str, JSON]:
    """A share with what it is of: ``value``, ``n``, and a Wilson interval at 95% as ``low`` and ``high``."""
    seen = list(outcomes)
    k, n = sum(seen), len(seen)
    bounds = wilson(k, n)
    low, high = bounds if bounds is not None else (None, None)
    return {"value": ratio(k, n), "n": n, "low": low, "high": high}


def _note(judged: Judged, name: str) -> Mapping[str, JSON] | None:
    value = judged.final.notes.get(name)
    return value if isinstance(value, Mapping) else None


class Relabel:
    """``relabel``: what became of the samples that the last verdict flagged.

    ``before``: share of right proposals among the flagged that have one, before any selection (a proposal without
    an answer is not right). ``after``: share of right labels among the flagged that were kept. ``kept``: share of
    the flagged that was kept. ``labels_before`` and ``labels_after``: share of right labels in the source and in
    all that was kept. ``of`` holds each with its n and interval. All but ``kept`` are over samples whose truth is
    known, and None without any.
    """

    name: ClassVar[str] = "relabel"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        if not data.verdicts or not data.judged:
            return {}
        flagged = [judged for judged in data.judged if _flagged(judged, data)]
        kept = [judged for judged in flagged if judged.final.dropped is None]
        parts = {
            "before": _share(_known(_proposal(judged, data) for judged in flagged)),
            "after": _share(_known(judged.label_is_right for judged in kept)),
            "kept": _share(judged.final.dropped is None for judged in flagged),
            "labels_before": _share(_known(judged.label_was_right for judged in data.judged)),
            "labels_after": _share(
                _known(j.label_is_right for j in data.judged if j.final.dropped is None)
            ),
        }
        values: dict[str, JSON] = {name: part["value"] for name, part in parts.items()}
        return {"flagged": len(flagged), **values, "of": parts}


def _known(outcomes: Iterable[bool | None]) -> Iterable[bool]:
    return (outcome for outcome in outcomes if outcome is not None)


def _flagged(judged: Judged, data: MetricInput) -> bool:
    """By the last verdict that the sample has: a later checker overrules an earlier one."""
    for name in reversed(data.verdicts):
        note = _note(judged, name)
        if note is not None and isinstance(note.get("flagged"), bool):
            return note["flagged"] is True
    return False


def _proposal(judged: Judged, data: MetricInput) -> bool | None:
    """Whether the last label proposed for the sample is right; None where none was, or no truth is known."""
    for name in reversed(data.proposes):
        note = _note(judged, name)
        if note is not None:
            return _answer(judged, name, note, data)
    return None


def _answer(judged: Judged, name: str, note: Mapping[str, JSON], data: MetricInput) -> bool | None:
    """Whether the note's answer is right, no answer being not right; None where no truth is known."""
    if judged.truth is None:
        return None
    if note.get("answer") is None:
        return False
    return data.answer_is_right.get(name, {}).get(judged.final.id)


class Views:
    """``views``: how often each view's own answer is right, over the samples that it was asked about and a truth.

    Where a view was skipped for some samples, these figures are of the others, which are the harder ones. A view that has no
    vote, as it is no better than chance, has no figures.

    ``accuracy`` counts a reply without an answer as not right, ``accuracy_answered`` leaves it out; ``no_answer`` is the
    share of replies without one, over all samples that have the view.
    """

    name: ClassVar[str] = "views"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        return {name: figures for name in data.views if (figures := _view(data, name)) is not None}


def _view(data: MetricInput, name: str) -> Mapping[str, JSON] | None:
    notes = [
        (judged, note)
        for judged in data.judged
        if (note := _note(judged, name)) is not None
        and not (note.get("skipped") or note.get("weak"))
    ]
    if not notes:
        return None
    outcomes = ((note, _answer(judged, name, note, data)) for judged, note in notes)
    known = [(note.get("answer") is not None, hit) for note, hit in outcomes if hit is not None]
    share = _share(hit for _, hit in known)
    return {
        "accuracy": share["value"],
        "n": share["n"],
        "low": share["low"],
        "high": share["high"],
        "accuracy_answered": _share(hit for answered, hit in known if answered)["value"],
        "no_answer": ratio(sum(note.get("answer") is None for _, note in notes), len(notes)),
        "n_seen": len(notes),
    }
