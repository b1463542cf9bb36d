"""What a run asked of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nfilter import JSON, MetricInput
from nfilter_metrics.figures import ratio


class Calls:
    """``calls``: model calls and tokens, a sample read and by stage, and the calls that were saved.

    ``saved`` is over the ``n`` samples whose truth is known, as only their notes are seen, and None without any. It is
    what every view would have cost with all its rounds, less what it did: ``skipped`` for views that were not
    asked, ``stopped`` for rounds that were not needed, ``adopted`` for answers taken over without a call.
    """

    name: ClassVar[str] = "calls"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        n = data.samples
        stages = list(dict.fromkeys((*data.calls, *data.tokens)))
        by_stage: dict[str, JSON] = {
            stage: _figures(data.calls.get(stage, 0), data.tokens.get(stage, 0), n)
            for stage in stages
        }
        total = _figures(sum(data.calls.values()), sum(data.tokens.values()), n)
        return {"n": n, **total, "by_stage": by_stage, "saved": _saved(data)}


def _figures(calls: int, tokens: int, n: int) -> dict[str, JSON]:
    return {
        "calls": calls,
        "tokens": tokens,
        "calls_per_sample": ratio(calls, n),
        "tokens_per_sample": ratio(tokens, n),
    }


def _saved(data: MetricInput) -> Mapping[str, JSON] | None:
    if not data.judged:
        return None
    kinds = dict.fromkeys(("skipped", "stopped", "adopted"), 0)
    by_note: dict[str, int] = {}
    for name in data.views:
        notes = (judged.final.notes.get(name) for judged in data.judged)
        for note in notes:
            if isinstance(note, Mapping) and (saved := _calls(note, "saved")):
                asked = "stopped" if _calls(note, "calls") else "adopted"
                kinds["skipped" if note.get("skipped") else asked] += saved
                by_note[name] = by_note.get(name, 0) + saved
    total, n = sum(kinds.values()), len(data.judged)
    return {
        "n": n,
        "calls": total,
        "calls_per_sample": ratio(total, n),
        **kinds,
        "by_note": by_note,
    }


def _calls(note: Mapping[str, JSON], key: str) -> int:
    """A count of calls in a note; 0 where there is none."""
    value = note.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
