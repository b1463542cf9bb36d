"""Metric ``view_flags``: each view alone as a detector of wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nfilter import JSON, MetricInput, Sample, Verdict
from nfilter_metrics.statistics import Counts, ratio


class ViewFlags:
    """Precision, recall and F1 of each view if it flagged the labels that it contradicts; a wrong label is a positive.

    A view contradicts a label if the last verdict says that they do not agree (``agree``). Without an answer it flags nothing.
    ``flagged`` is the share of labels that the view contradicts, over the ``n`` samples with a verdict and a known truth.
    """

    name: ClassVar[str] = "view_flags"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        """Return the figures by view; nothing if no verdict has ``agree``."""
        wrong: dict[str, list[bool]] = {}
        flags: dict[str, list[bool]] = {}
        for judged in data.judged:
            verdict = last_verdict(data, judged.final)
            if verdict is None or judged.label_was_right is None:
                continue
            for view, agrees in (verdict.agree or {}).items():
                wrong.setdefault(view, []).append(not judged.label_was_right)
                flags.setdefault(view, []).append(agrees is False)
        return {view: _figures(wrong[view], flags[view]) for view in wrong}


def _figures(wrong: list[bool], flags: list[bool]) -> dict[str, JSON]:
    counts = Counts.of(wrong, flags)
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "flagged": ratio(sum(flags), len(flags)),
        "n": len(flags),
    }


def last_verdict(data: MetricInput, sample: Sample) -> Verdict | None:
    """Return the verdict of the last check that judged ``sample``; None if none did."""
    for name in reversed(data.verdicts):
        verdict = Verdict.of(sample, name)
        if verdict is not None:
            return verdict
    return None
