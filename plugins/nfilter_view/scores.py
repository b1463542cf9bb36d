"""The numbers that stages wrote in the notes of a row: what rows are sorted and filtered by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from nfilter import Sample, View, is_number

MOST: Final = 48
"""Scores of one run; the first that are met."""
# Counts that every view has and that say nothing of a row.
_DULL: Final = frozenset({"tokens", "calls", "rounds", "saved", "length", "attempts"})


def scores_of(sample: Sample) -> Iterator[tuple[str, float]]:
    """Yield every number of a sample's notes, named ``note`` or ``note.field``, and its weight if it is not 1."""
    for name, note in sample.notes.items():
        if is_number(note):
            yield name, float(note)
        elif isinstance(note, Mapping):
            for key, value in note.items():
                if key not in _DULL and is_number(value):
                    yield f"{name}.{key}", float(value)


def views_of(sample: Sample) -> dict[str, View]:
    """Return the views of a sample, by the name of their note."""
    found = {}
    for name, note in sample.notes.items():
        if isinstance(note, Mapping) and "answer" in note and "text" in note:
            try:
                found[name] = View.from_json(note)
            except ValueError:
                continue
    return found


def disagreement_of(sample: Sample) -> float:
    """Return the share of the views' answers that are not the most frequent one; NaN with fewer than two answers."""
    # As View.asked and View.answer have it; a million rows are read here, so that no view is built.
    answers = [
        note["answer"]
        for note in sample.notes.values()
        if isinstance(note, Mapping)
        and isinstance(note.get("answer"), str)
        and "text" in note
        and not note.get("skipped")
        and not note.get("weak")
    ]
    if len(answers) < 2:
        return float("nan")
    ((_, most),) = Counter(answers).most_common(1)
    return 1 - most / len(answers)


def is_flagged(sample: Sample) -> bool | None:
    """Return whether the last verdict flags the label; None without a verdict."""
    for note in reversed(list(sample.notes.values())):
        if isinstance(note, Mapping) and "flagged" in note and "noise_score" in note:
            return bool(note["flagged"])
    return None
