"""Metric ``classes``: right labels before and after cleaning, by true answer or by its form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, Final

from nfilter import JSON, MetricInput

_MOST: Final = 40
"""True answers that are classes; a run with more is counted by the form of its answers."""
_ROWS: Final = 2
"""Rows per true answer, on average, from which on answers are classes."""
_LONGEST: Final = 60
_WHOLE: Final = re.compile(r"[-+]?[0-9]+")
_NUMBER: Final = re.compile(
    r"[-+]?(?:[0-9]+/[0-9]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
)


class Classes:
    """Right labels by true answer, over samples with known truth.

    ``by`` is ``answer`` where at most 40 true answers with two rows each or more on average exist, as in a label set or multiple
    choice, else ``form``: whole numbers, other numbers, and texts by their number of words. ``groups`` has for each, by
    falling ``n``: ``n`` samples, ``right_before`` right labels among them in the source, ``kept`` samples, and
    ``right_after`` right labels among those. ``lost`` counts right labels of the source that were dropped or replaced by
    wrong ones.
    """

    name: ClassVar[str] = "classes"

    def compute(self, data: MetricInput) -> Mapping[str, JSON]:
        truths = Counter(judged.truth for judged in data.judged if judged.truth is not None)
        if not truths:
            return {}
        few = len(truths) <= _MOST and sum(truths.values()) >= _ROWS * len(truths)
        by_answer = few and all(len(truth) <= _LONGEST for truth in truths)
        groups: dict[str, dict[str, int]] = {}
        for judged in data.judged:
            if judged.truth is None:
                continue
            name = judged.truth if by_answer else form_of(judged.truth)
            counts = groups.setdefault(
                name, dict.fromkeys(("n", "right_before", "kept", "right_after", "lost"), 0)
            )
            kept = judged.final.dropped is None
            right = kept and judged.label_is_right is True
            counts["n"] += 1
            counts["right_before"] += judged.label_was_right is True
            counts["kept"] += kept
            counts["right_after"] += right
            counts["lost"] += judged.label_was_right is True and not right
        ordered = sorted(groups.items(), key=lambda item: (-item[1]["n"], item[0]))
        return {"by": "answer" if by_answer else "form", "groups": {**dict(ordered)}}


def form_of(answer: str) -> str:
    """Return the form of an answer in canonical form: a kind of number, or a text by its number of words."""
    if _WHOLE.fullmatch(answer):
        return "whole number"
    if _NUMBER.fullmatch(answer):
        return "other number"
    words = len(answer.split())
    if words <= 1:
        return "one word"
    return "2 to 10 words" if words <= 10 else "more than 10 words"
