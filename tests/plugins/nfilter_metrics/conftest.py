from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from nfilter import Judged, Message, MetricInput, Sample


def judged(
    name: str,
    label: str,
    truth: str | None,
    notes: Mapping[str, Any] | None = None,
    *,
    final: str | None = None,
    dropped: str | None = None,
) -> Judged:
    """Build a sample with its label, truth, stage notes and final state."""
    original = Sample(name, (Message("user", "q"), Message("assistant", label)))
    final_sample = Sample(
        name,
        (Message("user", "q"), Message("assistant", final or label)),
        notes=notes or {},
        dropped=dropped,
    )
    known = truth is not None
    return Judged(
        original,
        final_sample,
        truth,
        label == truth if known else None,
        (final or label) == truth if known else None,
    )


def metric_input(
    rows: Sequence[Judged],
    *,
    verdicts: Sequence[str] = (),
    views: Sequence[str] = (),
    proposes: Sequence[str] = (),
    calls: Mapping[str, int] | None = None,
    tokens: Mapping[str, int] | None = None,
) -> MetricInput:
    """Build a metric's input; ``answer_is_right`` compares by equality."""
    right: dict[str, dict[str, bool | None]] = {}
    for note in (*views, *proposes):
        right[note] = {}
        for row in rows:
            value = row.final.notes.get(note)
            if isinstance(value, Mapping):
                answer = value.get("answer")
                unknown = answer is None or row.truth is None
                right[note][row.final.id] = None if unknown else answer == row.truth
    return MetricInput(
        judged=rows,
        samples=len(rows),
        verdicts=verdicts,
        views=views,
        proposes=proposes,
        answer_is_right=right,
        calls=calls or {},
        tokens=tokens or {},
        seed=0,
    )


@pytest.fixture(name="judged")
def judged_fixture() -> Callable[..., Judged]:
    return judged


@pytest.fixture(name="metric_input")
def metric_input_fixture() -> Callable[..., MetricInput]:
    return metric_input
