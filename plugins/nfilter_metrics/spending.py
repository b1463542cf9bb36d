"""What a run asked of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nfilter import JSON, MetricInput
from nfilter_metrics.figures import ratio


class Calls:
    """``calls``: model calls and tokens, a sample read and by stage."""

    name: ClassVar[str] = "calls"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        n = data.samples
        stages = list(dict.fromkeys((*data.calls, *data.tokens)))
        by_stage: dict[str, JSON] = {
            stage: _figures(data.calls.get(stage, 0), data.tokens.get(stage, 0), n)
            for stage in stages
        }
        total = _figures(sum(data.calls.values()), sum(data.tokens.values()), n)
        return {"n": n, **total, "by_stage": by_stage}


def _figures(calls: int, tokens: int, n: int) -> dict[str, JSON]:
    return {
        "calls": calls,
        "tokens": tokens,
        "calls_per_sample": ratio(calls, n),
        "tokens_per_sample": ratio(tokens, n),
    }
