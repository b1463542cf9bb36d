"""``forgetting.split``: positive tokens have a high score among all tokens, the others are negative."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Context,
    Contract,
    FloatArray,
    Share,
    StageConfig,
    State,
    TokenCut,
    TokenSample,
    token_score,
)


class SplitConfig(StageConfig):
    """``keep``: share of all tokens that is positive, those with the highest ``by``."""

    by: str = Field(default="excess", description="The score that ranks the tokens.")
    keep: Share = Field(
        default=0.7, description="Share of the tokens that is positive, above 0, at most 1."
    )
    into: str = Field(
        default="forgetting", description="The score with the sides: 1 positive, -1 negative."
    )


class Split:
    """Stage that writes 1 for positive tokens and -1 for negative ones, and masks none: the loss ``forgetting`` reads it.

    The n tokens in the loss of all samples are ranked by a Token Cleaning score (base loss minus reference loss), and the
    first int(n * keep) are positive, at least one, in the order score descending, sample, position. A token without a
    score (NaN) is on neither side and not counted.
    """

    name: ClassVar[str] = "forgetting.split"
    Config: ClassVar[type[StageConfig]] = SplitConfig

    def __init__(self, config: SplitConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SplitConfig) -> Contract:
        return Contract(reads=frozenset({config.by}), writes=frozenset({config.into}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        cut = TokenCut.through(map(self._scored, stream), self._scores, self._count)
        ctx.log.info(f"{self.name}: {cut.kept} of {cut.n} tokens are positive")
        return cut.to_state(report={"positive": cut.kept, "negative": cut.n - cut.kept})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        cut = TokenCut.of(state)
        return [sample.score(self.config.into, self._sides(sample, cut)) for sample in chunk]

    def _count(self, n: int) -> int:
        # Rounded, so that 0.7 * 10 is 7.
        return max(1, int(round(n * self.config.keep, 9))) if n else 0

    def _sides(self, sample: TokenSample, cut: TokenCut) -> FloatArray:
        scored = self._scored(sample)
        sides = np.where(cut.keeps(scored, self._scores), np.float32(1), np.float32(-1))
        return np.where(scored.in_loss, sides, np.float32("nan"))

    def _scores(self, sample: TokenSample) -> FloatArray:
        return token_score(
            sample, self.config.by, self.name, "tokens.excess_loss, or set by to its name"
        )

    def _scored(self, sample: TokenSample) -> TokenSample:
        """Return the sample without weights at tokens without a score."""
        missing = np.isnan(self._scores(sample))
        return replace(sample, weights=np.where(missing, np.float32(0), sample.weights))
