"""Confidence: the samples that one view decides alone, as it is sure of its answer, and those left to the others.

The paper trusts an answer the more the likelier the model found it (RobustFT, Eqs. 7 and 8), and uses that to select.
Here it also says who votes on a label and whom to ask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from nfilter import Sample, StageConfig
from nfilter_robustft.views import view_of


class Sure(StageConfig):
    """The ``view`` that decides a sample alone where the model gave its text at least ``probability``.

    At the default of one half no other text can be likelier. A view without an nll, or without an answer, is sure
    of nothing.
    """

    view: str
    probability: float = Field(default=0.5, gt=0, le=1)

    def of(self, sample: Sample) -> float | None:
        """The probability of the view's text where that makes it sure, else None."""
        note = view_of(sample, self.view)
        if note.get("answer") is None or (p := probability_of(note)) is None:
            return None
        return p if p >= self.probability else None


def probability_of(note: Mapping[str, Any]) -> float | None:
    """The probability of a view's whole text, exp(-nll * length), as the nll is a mean (Eq. 7); None where unknown."""
    nll, length = note.get("nll"), note.get("length", note.get("tokens"))
    if isinstance(nll, bool) or not isinstance(nll, int | float) or not isinstance(length, int):
        return None
    return math.exp(-float(nll) * length) if length > 0 and math.isfinite(nll) else None
