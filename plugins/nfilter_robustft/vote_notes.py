"""Notes of views with a share of votes per answer."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

from nfilter import JSON, Context, Sample, State, View
from nfilter_robustft.keys import label_of, options_of
from nfilter_robustft.statistics.frequencies import restrict_to_options

MAX_VOTES = 5  # votes listed in a note


def vote_note(
    sample: Sample, shares: dict[str, float], ctx: Context, *, calibrated: bool, **more: JSON
) -> View:
    """Return a view from shares by answer key; for multiple choice, keys are option texts."""
    label = label_of(sample, ctx)
    support = 0.0 if label is None else shares.get(label, 0.0)
    shares = shares_by_answer(sample, shares, ctx)
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    if not ranked:
        return no_answer_note("no neighbour's label is an option of this sample")
    votes: dict[str, JSON] = {answer: round(share, 6) for answer, share in ranked[:MAX_VOTES]}
    graded = {"support": round(support, 6), "votes": votes, "calibrated": calibrated, **more}
    return View(ranked[0][0], text=ranked[0][0], calls=0, more=graded)


def shares_by_answer(sample: Sample, shares: dict[str, float], ctx: Context) -> dict[str, float]:
    """Return ``shares`` by canonical answer: letters instead of option texts."""
    options = options_of(sample, ctx)
    if not options:
        return shares
    letters = dict(
        zip(reversed(options), reversed(string.ascii_uppercase[: len(options)]), strict=True)
    )
    return {letters[key]: share for key, share in shares.items() if key in letters}


def weak_note(sample: Sample, state: State, ctx: Context, why: str) -> View:
    """Return the note of a view that is no better than chance, with the answer frequencies as votes.

    It has no answer, for the reason ``why``, and no vote (``weak``): its answers are no evidence against a label.
    """
    values: Any = state.values
    shares = restrict_to_options(values["frequencies"], options_of(sample, ctx))
    note = vote_note(sample, shares, ctx, calibrated=True) if shares else no_answer_note(why)
    return replace(note, answer=None, text="", failure=why).with_more(weak=True)


def no_answer_note(why: str) -> View:
    """Return the note of a view without any information about a sample, for the reason ``why``."""
    graded: dict[str, JSON] = {"support": 0.0, "votes": {}, "calibrated": False}
    return View(None, calls=0, failure=why, more=graded)
