"""``tokens.keep_top`` and ``tokens.random``: keep a share of the tokens in the loss (Token Cleaning, Eq. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    BoolArray,
    Context,
    Contract,
    FloatArray,
    Proportion,
    StageConfig,
    State,
    TokenCut,
    TokenSample,
    highest_scores,
    token_score,
)


class KeepTopConfig(StageConfig):
    """``by``: score to rank by. ``k``: share kept, ``int(n * k)`` of n tokens.

    ``scope: global`` ranks the tokens of all samples together, so a sample may lose every token; ``sample`` ranks
    the tokens within each sample (the local ranking of RHO).
    """

    by: str = Field(default="excess", description="The score that ranks the tokens.")
    k: Proportion = Field(default=0.6, description="Share of the tokens that is kept, 0 to 1.")
    scope: Literal["global", "sample"] = Field(
        default="global",
        description="global: rank the tokens of all samples together; sample: within each sample.",
    )


class KeepTop:
    """Stage that keeps the tokens with the highest score and masks the others.

    The pool is every response token with a non-zero weight. The order is score descending, sample, position, so ties
    are broken the same way everywhere; a token without a score (NaN) comes last.
    """

    name: ClassVar[str] = "tokens.keep_top"
    Config: ClassVar[type[StageConfig]] = KeepTopConfig

    def __init__(self, config: KeepTopConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: KeepTopConfig) -> Contract:
        return Contract(reads=frozenset({config.by}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Find the cut through all tokens; return an empty state if ``scope`` is ``sample``."""
        if self.config.scope == "sample":
            return State({})
        return _fit(stream, self._scores, self.config.k, ctx)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        if self.config.scope == "sample":
            return [_mask_dropped(sample, self._keeps_in_sample(sample), bit) for sample in chunk]
        cut = TokenCut.of(state)
        return [_mask_dropped(sample, cut.keeps(sample, self._scores), bit) for sample in chunk]

    def _keeps_in_sample(self, sample: TokenSample) -> BoolArray:
        """Return the mask ([T]) of the ``int(n * k)`` highest-scored of the sample's n tokens in the loss."""
        kept = sample.in_loss
        scores = self._scores(sample)[kept]
        kept[kept] = highest_scores(scores, int(len(scores) * self.config.k))
        return kept

    def _scores(self, sample: TokenSample) -> FloatArray:
        return token_score(
            sample, self.config.by, self.name, "tokens.excess_loss, or set by to its name"
        )


class RandomTokensConfig(StageConfig):
    """``k``: share of all response tokens kept, ``int(n * k)`` of n, drawn with the run's seed."""

    k: Proportion = Field(
        default=0.6, description="Share of the response tokens that is kept, 0 to 1."
    )


class RandomTokens:
    """Stage that keeps randomly drawn tokens: the control for every token selection."""

    name: ClassVar[str] = "tokens.random"
    Config: ClassVar[type[StageConfig]] = RandomTokensConfig

    def __init__(self, config: RandomTokensConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RandomTokensConfig) -> Contract:
        return Contract()

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Draw a random score per token of the pool and find the cut through them."""
        return _fit(stream, _RandomScore(ctx), self.config.k, ctx)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        cut = TokenCut.of(state)
        return [
            _mask_dropped(sample, cut.keeps(sample, _RandomScore(ctx)), bit) for sample in chunk
        ]


@dataclass(frozen=True, slots=True)
class _RandomScore:
    """Random score per token ([T]) that depends only on the run's seed, the stage and the sample's id."""

    ctx: Context

    def __call__(self, sample: TokenSample) -> FloatArray:
        seed = self.ctx.rng(sample.id).getrandbits(64)
        return np.random.default_rng(seed).random(len(sample.ids), dtype=np.float32)


def _fit(
    stream: Iterable[TokenSample],
    scored: Callable[[TokenSample], FloatArray],
    k: float,
    ctx: Context,
) -> State:
    cut = TokenCut.through(stream, scored, lambda n: int(n * k))
    ctx.log.info(f"kept {cut.kept} of {cut.n} response tokens")
    return cut.to_state(report={"pool": cut.n, "kept": cut.kept})


def _mask_dropped(sample: TokenSample, kept: BoolArray, bit: int) -> TokenSample:
    dropped = sample.in_loss & ~kept
    return sample.mask(dropped, bit) if dropped.any() else sample
