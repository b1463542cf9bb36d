"""Confidence: the samples that one view decides alone, as it is sure of its answer, and those left to the others.

The paper trusts an answer the more the likelier the model found it (RobustFT, Eqs. 7 and 8), and uses that to select.
Here it also says who votes on a label and whom to ask.
"""

from __future__ import annotations

import math

from pydantic import Field

from nfilter import Sample, StageConfig, View


class Sure(StageConfig):
    """The ``view`` that decides a sample alone where the model gave its text at least ``probability``.

    At the default of one half no other text can be likelier. A view without an nll, or without an answer, is sure
    of nothing.
    """

    view: str
    probability: float = Field(default=0.5, gt=0, le=1)

    def of(self, sample: Sample) -> float | None:
        """The probability of the view's text where that makes it sure, else None."""
        view = View.of(sample, self.view)
        if view is None or view.answer is None or (p := probability_of(view)) is None:
            return None
        return p if p >= self.probability else None


def probability_of(view: View) -> float | None:
    """The probability of a view's whole text, exp(-nll * length), as the nll is a mean (Eq. 7); None where unknown."""
    if view.nll is None or not math.isfinite(view.nll) or view.length == 0:
        return None
    return math.exp(-float(view.nll) * view.length)
