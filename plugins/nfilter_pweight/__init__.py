"""Soft weights: a response token is weighted by its probability under the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from nfilter import Context, Contract, Needs, Scores, StageConfig, State, TokenSample, hookimpl


class WeighConfig(StageConfig):
    """A token's weight is multiplied by p ** ``power``, clipped to [``least``, ``most``].

    A negative ``power`` raises the weight of unlikely tokens.
    """

    model: Annotated[str, Needs(Scores)] = Field(
        default="student", description="The model whose token probabilities are read."
    )
    power: float = Field(
        default=1.0,
        ge=-8,
        le=8,
        description="Exponent of the token's probability, -8 to 8; below 0 unlikely tokens weigh more.",
    )
    least: float = Field(default=0.0, ge=0, description="The smallest factor, at least 0.")
    most: float = Field(default=100.0, gt=0, description="The largest factor.")
    into: str = Field(default="p", description="The score with the token's probability.")


class Weigh:
    """Stage that weights response tokens by their probability; a token without a prediction keeps its weight."""

    name: ClassVar[str] = "pweight.weigh"
    Config: ClassVar[type[StageConfig]] = WeighConfig

    def __init__(self, config: WeighConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: WeighConfig) -> Contract:
        return Contract(writes=frozenset({config.into}))

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        out = []
        losses = ctx.model(self.config.model).score(chunk)
        for sample, loss in zip(chunk, losses, strict=True):
            with np.errstate(over="ignore"):
                factors = np.exp(-self.config.power * loss.astype(np.float64))
            factors = np.clip(factors, self.config.least, self.config.most)
            factors = np.where(np.isnan(loss), 1.0, factors).astype(np.float32)
            out.append(sample.score(self.config.into, np.exp(-loss)).weigh(factors, bit))
        return out


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    return [Weigh]
