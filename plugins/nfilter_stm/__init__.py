"""Selective token masking: tokens that the base model finds unlikely are removed from the loss.

A response token is kept if its perplexity under the base model, 1 / p, is at largest a threshold; 2.5 is usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from nfilter import Context, Contract, Needs, Scores, StageConfig, State, TokenSample, hookimpl


class MaskConfig(StageConfig):
    """``above``: largest perplexity that is kept. ``into``: score name of a token's perplexity under ``model``."""

    model: Annotated[str, Needs(Scores)] = Field(
        default="student", description="The model whose token probabilities are read."
    )
    above: float = Field(
        default=2.5,
        ge=1,
        description="The largest perplexity of a token that stays in the loss, at least 1.",
    )
    into: str = Field(default="perplexity", description="The score with the token's perplexity.")


class Mask:
    """Stage that masks response tokens with a perplexity above the threshold; a token without a prediction is kept."""

    name: ClassVar[str] = "stm.mask"
    Config: ClassVar[type[StageConfig]] = MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MaskConfig) -> Contract:
        return Contract(writes=frozenset({config.into}))

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Score and mask; losses are compared, because the perplexity of a large loss overflows."""
        losses = ctx.model(self.config.model).score(chunk)
        largest = math.log(self.config.above)
        with np.errstate(over="ignore"):
            return [
                sample.score(self.config.into, np.exp(loss)).mask(loss.astype(float) > largest, bit)
                for sample, loss in zip(chunk, losses, strict=True)
            ]


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    return [Mask]
