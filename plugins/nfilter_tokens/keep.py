"""``tokens.keep_top`` and ``tokens.random``: a share of the tokens stays in the loss (Token Cleaning, Eq. 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    BoolArray,
    Context,
    Contract,
    FloatArray,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_tokens.pool import GlobalCut, Scored, keeps_in_sample, pool_of, score_of


class KeepTopConfig(StageConfig):
    """``by``: the score that ranks. ``k``: the share kept, ``int(n * k)`` tokens of n.

    ``scope: global`` ranks all tokens of all samples together, and a sample may lose every token; ``sample`` ranks
    those of each sample (the local ranking of RHO).
    """

    by: str = "excess"
    k: float = Field(default=0.6, ge=0, le=1)
    scope: Literal["global", "sample"] = "global"


class KeepTop:
    """Keeps the tokens with the highest score and takes the others out of the loss.

    The pool is every response token that still has a weight. Its order is score descending, sample, position, so
    that ties are decided the same way everywhere; a token without a score (NaN) comes last.
    """

    name: ClassVar[str] = "tokens.keep_top"
    Config: ClassVar[type[StageConfig]] = KeepTopConfig

    def __init__(self, config: KeepTopConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: KeepTopConfig) -> Contract:
        """Reads a score."""
        return Contract(reads=frozenset({config.by}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Find the cut through all tokens; nothing where each sample is ranked alone."""
        if self.config.scope == "sample":
            return State({})
        return _fitted(stream, self._scores, self.config.k, ctx)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask what is under the cut."""
        del ctx
        if self.config.scope == "sample":
            return [
                _masked(sample, keeps_in_sample(sample, self._scores, self.config.k), bit)
                for sample in chunk
            ]
        cut = GlobalCut.of(state)
        return [_masked(sample, cut.keeps(sample, self._scores), bit) for sample in chunk]

    def _scores(self, sample: TokenSample) -> FloatArray:
        return score_of(sample, self.config.by, self.name)


class RandomTokensConfig(StageConfig):
    """``k``: the share of all response tokens that is kept, ``int(n * k)`` of n, drawn with the run's seed."""

    k: float = Field(default=0.6, ge=0, le=1)


class RandomTokens:
    """Keeps tokens drawn at random: the control beside every choice of tokens."""

    name: ClassVar[str] = "tokens.random"
    Config: ClassVar[type[StageConfig]] = RandomTokensConfig

    def __init__(self, config: RandomTokensConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RandomTokensConfig) -> Contract:  # noqa: ARG003
        """Reads and writes no scores."""
        return Contract()

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Draw a number for every token of the pool and find the cut through them."""
        return _fitted(stream, _Draw(ctx), self.config.k, ctx)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask what was not drawn."""
        cut = GlobalCut.of(state)
        return [_masked(sample, cut.keeps(sample, _Draw(ctx)), bit) for sample in chunk]


@dataclass(frozen=True, slots=True)
class _Draw:
    """A random number a token, which depends on the run's seed, the stage and the sample's id alone."""

    ctx: Context

    def __call__(self, sample: TokenSample) -> FloatArray:
        seed = self.ctx.rng(sample.id).getrandbits(64)
        return np.random.default_rng(seed).random(len(sample.ids), dtype=np.float32)


def _fitted(stream: Iterable[TokenSample], scored: Scored, k: float, ctx: Context) -> State:
    cut = GlobalCut.through(stream, scored, k)
    ctx.log.info(f"{cut.kept} of {cut.n} response tokens are kept")
    return cut.to_state(report={"pool": cut.n, "kept": cut.kept})


def _masked(sample: TokenSample, kept: BoolArray, bit: int) -> TokenSample:
    lost = pool_of(sample) & ~kept
    return sample.mask(lost, bit) if lost.any() else sample
