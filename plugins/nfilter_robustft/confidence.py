"""Confidence of a view: a view that is confident of its answer decides a sample alone.

The paper uses the model's probability of an answer for selection (RobustFT, Eqs. 7 and 8). Here it also decides which
views vote on a label and which samples are asked about.
"""

from __future__ import annotations

import math

from pydantic import Field

from nfilter import Sample, Share, StageConfig, View


class Sure(StageConfig):
    """The ``view`` that decides a sample alone if the model's probability of its text is at least ``probability``.

    At the default of one half, no other text can be more likely. A view without an nll or an answer is never sure.
    """

    view: str = Field(description="The view that decides alone where it is confident.")
    probability: Share = Field(
        default=0.5,
        description="Probability of the view's text from which it is confident, above 0, at most 1.",
    )

    def of(self, sample: Sample) -> float | None:
        """Return the probability of the view's text if it is sure, else None."""
        view = View.of(sample, self.view)
        if view is None or view.answer is None or (p := probability_of(view)) is None:
            return None
        return p if p >= self.probability else None


def probability_of(view: View) -> float | None:
    """Return the probability of a view's text, exp(-nll * length) (the nll is a mean, Eq. 7), or None if unknown."""
    if view.nll is None or not math.isfinite(view.nll) or view.length == 0:
        return None
    return math.exp(-float(view.nll) * view.length)
