"""Sentences about methods, each derived from conditions on intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.evidence.figures import Difference, Evidence
from benchmarks.evidence.text import NOT_RUN, interval, listed, ratio, share
from benchmarks.real_evidence.figures import figures, knows_more, verdict
from benchmarks.real_evidence.lines import CHECKED, CLEANLAB, CONTROLS, METHODS
from benchmarks.real_evidence.plan import TRUSTED_AT

GOALS: Final = {30: 0.8, 50: 0.8, 70: 0.6}
"""What share of the damage is asked for, by level; at 70% with checked labels."""
CHANCE: Final = "is not shown to know more than the most frequent answer"


def plain(gap: Difference | None) -> Mapping[str, Any] | None:
    """Return a difference in the format of ``text.interval``."""
    return None if gap is None else {"mean": gap.mean, "low": gap.low, "high": gap.high}


def level(evidence: Evidence, one: str, percent: int) -> list[str]:
    """Return the result of each finished method at a level, and the controls that are better than a method."""
    out = []
    for name in METHODS:
        if figures(evidence, name, one, percent) is None:  # the table says what has not run
            continue
        said = _method(evidence, name, one, percent)
        out.append(f"{one} {percent}%: `{name}` {said}.")
    return [*out, *_controls(evidence, one, percent)]


def _method(evidence: Evidence, name: str, one: str, percent: int) -> str:
    found = figures(evidence, name, one, percent)
    if found is None:
        return f"is {NOT_RUN}"
    told = []
    for other in ("raw", "random", CLEANLAB):
        gap = evidence.difference(name, other, one, percent)
        if other != name and gap is not None:
            judged = verdict(gap)
            shown = f"**{judged} {other}**" if judged != "is not shown to differ from" else f"{judged} {other}"  # fmt: skip
            told.append(f"{shown} ({interval(plain(gap))})")
    if found.line.recovered is None:
        told.append("what it recovers is undefined: truth - raw is under three standard errors, or is not there")  # fmt: skip
    else:
        goal = GOALS.get(percent) if percent != TRUSTED_AT or name in CHECKED else None
        bounded = ratio(found.line.recovered, found.line.intervals.get("recovered"))
        asked = "" if goal is None else f", asked for {share(goal)}"
        reached = "" if goal is None else " (reached)" if found.line.recovered >= goal else " (not reached)"  # fmt: skip
        told.append(f"recovers {bounded}{asked}{reached}")
    return "; ".join(told)


def _controls(evidence: Evidence, one: str, percent: int) -> list[str]:
    out = []
    for control in CONTROLS:
        beaten = []
        for name in METHODS:
            gap = evidence.difference(control, name, one, percent)
            if gap is not None and verdict(gap) == "beats":
                beaten.append(f"`{name}` ({interval(plain(gap))})")
        if beaten:
            out.append(f"{one} {percent}%: **a control wins**: `{control}` beats {listed(beaten)}.")
    return out


def best(evidence: Evidence, one: str, percent: int) -> str:
    """Return the method with the highest accuracy, and those that do not differ significantly from it."""
    known = {
        name: found.line.accuracy.mean
        for name in METHODS
        if (found := figures(evidence, name, one, percent)) is not None
    }
    if not known:
        return NOT_RUN
    first = max(known, key=lambda name: known[name])
    same = [
        name
        for name in known
        if name != first
        and (gap := evidence.difference(first, name, one, percent)) is not None
        and verdict(gap) != "beats"
    ]
    return f"`{first}`" + (f", not shown to differ from {listed([f'`{n}`' for n in same])}" if same else "")  # fmt: skip


def learnable(evidence: Evidence, one: str, frequent: float) -> str:
    """Whether the student learns the task at all: the truth arm beside the share of the most frequent answer."""
    level_of = next((p for (n, o, p, _) in evidence.plan.of if n == "truth" and o == one), None)
    truth = None if level_of is None else evidence.line("truth", one, level_of)
    if truth is None:
        return f"{one}: the truth arm is {NOT_RUN}."
    rows = next(len(c["right"]) for s in evidence.scope.seeds if (c := evidence.of("truth", one, level_of or 0, s)))  # fmt: skip
    shown = f"trained on the true labels it answers {share(truth.accuracy.mean)} right, the most frequent answer alone {share(frequent)}"  # fmt: skip
    if not knows_more(truth.accuracy.mean, rows, frequent):
        return f"{one}: **the student {CHANCE}** ({shown}): no method can show anything here, and no other line is trained."
    return f"{one}: the student learns the task ({shown})."
