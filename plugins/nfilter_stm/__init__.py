"""Selective token masking: tokens that surprise the base model leave the loss.

A response token stays where its perplexity under the base model, 1 / p, is at most a threshold; 2.5 is the usual one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Context,
    Contract,
    Needs,
    Scores,
    StageConfig,
    State,
    TokenSample,
    hookimpl,
)


class MaskConfig(StageConfig):
    """``above``: the largest perplexity that stays. ``into``: the score, a token's perplexity under ``model``."""

    model: Annotated[str, Needs(Scores)] = "student"
    above: float = Field(default=2.5, ge=1)
    into: str = "perplexity"


class Mask:
    """Masks response tokens whose perplexity is over the threshold; one that is not predicted stays."""

    name: ClassVar[str] = "stm.mask"
    Config: ClassVar[type[StageConfig]] = MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MaskConfig) -> Contract:
        """Writes a score."""
        return Contract(writes=frozenset({config.into}))

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Score and mask; the comparison is of losses, as a large one has no finite perplexity."""
        del state
        losses = ctx.model(self.config.model).score(chunk)
        most = math.log(self.config.above)
        with np.errstate(over="ignore"):
            return [
                sample.score(self.config.into, np.exp(loss)).mask(loss.astype(float) > most, bit)
                for sample, loss in zip(chunk, losses, strict=True)
            ]


@hookimpl
def nfilter_stages() -> list[type]:
    """One stage."""
    return [Mask]
