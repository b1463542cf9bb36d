"""Metric ``calls``: model calls and tokens of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nfilter import JSON, MetricInput, View
from nfilter_metrics.statistics import ratio


class Calls:
    """Model calls and tokens, per sample and by stage, and the number of calls saved.

    ``saved`` covers the ``n`` samples with known truth, the only ones whose notes a metric receives; None without any.
    It is the number of calls of every view with all its rounds, minus the calls made: ``skipped`` for views not asked,
    ``stopped`` for rounds not needed, ``adopted`` for answers adopted without a call.
    """

    name: ClassVar[str] = "calls"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        n = data.samples
        stages = list(dict.fromkeys((*data.calls, *data.tokens)))
        by_stage: dict[str, JSON] = {
            stage: _metrics(data.calls.get(stage, 0), data.tokens.get(stage, 0), n)
            for stage in stages
        }
        total = _metrics(sum(data.calls.values()), sum(data.tokens.values()), n)
        return {"n": n, **total, "by_stage": by_stage, "saved": _saved_calls(data)}


def _metrics(calls: int, tokens: int, n: int) -> dict[str, JSON]:
    return {
        "calls": calls,
        "tokens": tokens,
        "calls_per_sample": ratio(calls, n),
        "tokens_per_sample": ratio(tokens, n),
    }


def _saved_calls(data: MetricInput) -> Mapping[str, JSON] | None:
    if not data.judged:
        return None
    kinds = dict.fromkeys(("skipped", "stopped", "adopted"), 0)
    by_note: dict[str, int] = {}
    for name in data.views:
        for judged in data.judged:
            view = View.of(judged.final, name)
            if view is not None and view.saved:
                kind = "stopped" if view.calls else "adopted"
                kinds["skipped" if view.skipped else kind] += view.saved
                by_note[name] = by_note.get(name, 0) + view.saved
    total, n = sum(kinds.values()), len(data.judged)
    return {
        "n": n,
        "calls": total,
        "calls_per_sample": ratio(total, n),
        **kinds,
        "by_note": by_note,
    }
