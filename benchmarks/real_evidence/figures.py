"""Cells into the figures of a line and of a rule, over the seeds that have run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from benchmarks.evidence.figures import Difference, Evidence, Line, Spread, spread
from benchmarks.real_evidence.lines import CLEANLAB, rules

DETECTED: Final = ("precision", "recall", "f1", "roc_auc")
Verdict = Literal["beats", "is below", "is not shown to differ from"]


@dataclass(frozen=True)
class Figures:
    """One line at one level: what ``line`` has, and what it found, cost and gained over cleanlab."""

    line: Line
    less_cleanlab: Difference | None
    no_answer: Spread | None
    found: Mapping[str, Spread | None]
    cleaning: Spread | None
    seconds: Spread | None


def figures(evidence: Evidence, name: str, one: str, level: int) -> Figures | None:
    """Return the figures of a line at a level of the dataset ``one``; None if no seed has run."""
    line = evidence.line(name, one, level)
    if line is None:
        return None
    cells = [c for seed in evidence.scope.seeds if (c := evidence.of(name, one, level, seed))]
    notes = [cell.get("detection") or {} for cell in cells]
    return Figures(
        line,
        None if name == CLEANLAB else evidence.difference(name, CLEANLAB, one, level),
        spread([cell["unanswered"] for cell in cells]),
        {key: spread([note.get(key) for note in notes]) for key in DETECTED},
        spread([cell.get("cleaning_seconds") for cell in cells]) if name != "vanilla" else None,
        # What was trained already costs nothing here, and would say nothing.
        spread([c["seconds"] for c in cells if c.get("trained_in") in (None, c["cell"]["key"])]),
    )


def verdict(gap: Difference | Mapping[str, Any]) -> Verdict:
    """Return the conclusion from the 95% interval of a difference."""
    low, high = (gap.low, gap.high) if isinstance(gap, Difference) else (gap["low"], gap["high"])
    return "beats" if low > 0 else "is below" if high < 0 else "is not shown to differ from"


def knows_more(accuracy: float, rows: int, frequent: float) -> bool:
    """Whether a share of test rows is two standard errors above that of the most frequent answer."""
    return accuracy > frequent + 2 * math.sqrt(accuracy * (1 - accuracy) / rows)


def rules_found(evidence: Evidence, one: str, level: int) -> dict[str, Mapping[str, Spread | None]]:
    """Return the detection figures at a level, by rule; empty if no detection has run."""
    keys = [evidence.plan.detection.get((one, level, seed)) for seed in evidence.scope.seeds]
    cells = [cell for key in keys if key is not None and (cell := evidence.cell(key)) is not None]
    by = [cell["detection"].get("by_note", {}) for cell in cells]
    # The file of all figures keeps no order.
    names = [
        name for name in (*dict(rules(asked=True)), CLEANLAB) if any(name in notes for notes in by)
    ]
    return {
        name: {
            key: spread([notes[name].get(key) for notes in by if name in notes])
            for key in (*DETECTED, "flagged")
        }
        for name in names
    }


def flag_all(evidence: Evidence, one: str, level: int) -> Spread | None:
    """Return the F1 of flagging every row."""
    keys = [evidence.plan.detection.get((one, level, seed)) for seed in evidence.scope.seeds]
    cells = [cell for key in keys if key is not None and (cell := evidence.cell(key)) is not None]
    return spread([cell["detection"]["flag_all"]["f1"] for cell in cells])
