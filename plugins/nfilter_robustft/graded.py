"""Notes of views that give shares of votes, one for each answer, in place of an answer alone."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

from nfilter import JSON, Context, Sample, State, View
from nfilter_robustft.frequencies import among
from nfilter_robustft.keys import label_of, options_of

SHOWN = 5  # votes named in a note


def note_of(
    sample: Sample, shares: dict[str, float], ctx: Context, *, calibrated: bool, **more: JSON
) -> View:
    """A view note from shares by answer key; for multiple choice, keys are texts of options."""
    label = label_of(sample, ctx)
    support = 0.0 if label is None else shares.get(label, 0.0)
    shares = as_answers(sample, shares, ctx)
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    if not ranked:
        return abstain("no neighbour's label is an answer to this sample")
    votes: dict[str, JSON] = {answer: round(share, 6) for answer, share in ranked[:SHOWN]}
    graded = {"support": round(support, 6), "votes": votes, "calibrated": calibrated, **more}
    return View(ranked[0][0], text=ranked[0][0], calls=0, more=graded)


def as_answers(sample: Sample, shares: dict[str, float], ctx: Context) -> dict[str, float]:
    """``shares`` by the answers that a response to ``sample`` gives: letters, where its options are known by their texts."""
    options = options_of(sample, ctx)
    if not options:
        return shares
    letters = dict(
        zip(reversed(options), reversed(string.ascii_uppercase[: len(options)]), strict=True)
    )
    return {letters[key]: share for key, share in shares.items() if key in letters}


def unsure(sample: Sample, state: State, ctx: Context, why: str) -> View:
    """The note of a view that is no better than chance and knows how frequent the answers are; ``why`` it has none.

    It has no vote, as ``weak`` says: a label is not wrong because such a view does not name it.
    """
    values: Any = state.values
    shares = among(values["frequencies"], options_of(sample, ctx))
    note = note_of(sample, shares, ctx, calibrated=True) if shares else abstain(why)
    return replace(note, answer=None, text="", failure=why).with_more(weak=True)


def abstain(why: str) -> View:
    """The note of a view that knows nothing about a sample, and why."""
    graded: dict[str, JSON] = {"support": 0.0, "votes": {}, "calibrated": False}
    return View(None, calls=0, failure=why, more=graded)
