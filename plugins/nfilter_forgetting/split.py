"""``forgetting.split``: positive tokens have a high score among all tokens, the others are negative."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    FloatArray,
    RecipeError,
    StageConfig,
    State,
    TokenSample,
    hash_of,
    place_of,
)


class SplitConfig(StageConfig):
    """``keep``: share of all tokens that is positive, those with the highest ``by``."""

    by: str = Field(default="excess", description="The score that ranks the tokens.")
    keep: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the tokens that is positive, above 0, at most 1.",
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
        """Read a score, write the sides."""
        return Contract(reads=frozenset({config.by}), writes=frozenset({config.into}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Find the cut; uses 4 bytes per token in the loss, and 8 per sample after the cut that ties with it."""
        ids: list[str] = []
        parts: list[FloatArray] = []
        for sample in stream:
            ids.append(sample.id)
            parts.append(self._ranked(sample))
        scores = np.concatenate([np.zeros(0, np.float32), *parts])
        scores = scores[~np.isnan(scores)]
        n, cut, left = len(scores), math.inf, 0
        if n:
            rank = max(1, int(round(n * self.config.keep, 9)))
            cut = float(np.partition(scores, n - rank)[n - rank])
            left = rank - int((scores > cut).sum())
        # Of the tokens that tie with the cut, the first ``left`` in order are positive.
        positive = left + int((scores > cut).sum())
        on, within, after = None, 0, []
        for name, part in zip(ids, parts, strict=True):
            ties = int((part == cut).sum())
            if ties <= left:
                left -= ties
            elif left:
                on, within, left = name, left, 0
            else:
                after.append(hash_of(name))
        ctx.log.info(f"{self.name}: {positive} of {n} tokens are positive")
        report: dict[str, JSON] = {"positive": positive, "negative": n - positive}
        values: dict[str, JSON] = {"cut": cut if n else None, "on": on, "within": within}
        return State({**values, "report": report}, {"after": np.sort(np.array(after, np.uint64))})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Write the sides."""
        del ctx, bit
        return [sample.score(self.config.into, self._sides(sample, state)) for sample in chunk]

    def _sides(self, sample: TokenSample, state: State) -> FloatArray:
        values: Any = state.values
        scores = self._ranked(sample)
        cut = math.inf if values["cut"] is None else values["cut"]
        ties = np.flatnonzero(scores == cut)
        if sample.id == values["on"]:
            ties = ties[: values["within"]]
        elif place_of(state.arrays["after"], sample.id) is not None:
            ties = ties[:0]
        sides = np.where(scores > cut, 1.0, -1.0)
        sides[ties] = 1.0
        out: FloatArray = np.where(np.isnan(scores), np.nan, sides).astype(np.float32)
        return out

    def _ranked(self, sample: TokenSample) -> FloatArray:
        """Return the scores ([T]) of tokens in the loss; NaN elsewhere."""
        pool = sample.response & (sample.weights != 0)
        ranked: FloatArray = np.where(pool, self._scores(sample), np.float32("nan"))
        return ranked.astype(np.float32)

    def _scores(self, sample: TokenSample) -> FloatArray:
        scores = sample.scores.get(self.config.by)
        if scores is None:
            available = ", ".join(sorted(sample.scores)) or "none"
            raise RecipeError(
                f"{self.name}: no score {self.config.by!r} (available: {available}); put the stage that writes it before this "
                "one, such as tokens.excess_loss, or set by to its name"
            )
        return scores
