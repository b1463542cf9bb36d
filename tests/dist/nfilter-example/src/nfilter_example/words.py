"""A metric: what cleaning did to the length of responses."""

from collections.abc import Mapping
from statistics import fmean
from typing import ClassVar

from nfilter import JSON, MetricInput


class Words:
    """Mean words a response, of all samples with a known truth and of those that are left."""

    name: ClassVar[str] = "example_words"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        """Nothing where no truth is known: the metric is then left out of metrics.json."""
        if not data.judged:
            return {}
        left = [item.final for item in data.judged if item.final.dropped is None]
        return {
            "before": fmean(len(item.original.response.split()) for item in data.judged),
            "after": fmean(len(sample.response.split()) for sample in left) if left else None,
        }
