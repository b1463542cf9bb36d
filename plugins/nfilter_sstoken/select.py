"""``sstoken.select``: keep the tokens with the highest mix of loss reduction and attention to the prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Attends,
    BoolArray,
    Context,
    Contract,
    FloatArray,
    ModelError,
    ModelNeed,
    Proportion,
    Share,
    StageConfig,
    State,
    TokenSample,
    highest_scores,
    response_attention,
    token_score,
)


class SelectConfig(StageConfig):
    """``by``: score with the base loss minus the loss of the current model. ``rho`` mixes it with the attention."""

    by: str = Field(
        default="excess",
        description="The score with the base loss minus the current model's loss, as tokens.excess_loss writes it.",
    )
    model: str = Field(default="student", description="The local model whose attention is read.")
    rho: Proportion = Field(
        default=0.5,
        description="Part of the loss difference in the mix, 0 to 1; the rest is attention.",
    )
    keep: Share = Field(
        default=0.6, description="Share of each sample's tokens that is kept, above 0, at most 1."
    )
    into: str = Field(default="sstoken", description="The score with the mix.")


class Select:
    """Stage that keeps ``ceil(n * keep)`` of each sample's n tokens with the highest mix, and masks the others.

    mix = rho * minmax(REL) + (1 - rho) * A. REL is the retrospective excess loss, base loss minus current loss, scaled
    within the sample to 0..1 (0 where all are equal). A is the attention in the last layer that the token pays to the
    prompt, averaged over heads and summed over all prompt positions, in 0..1.

    In the paper the current model is the one in training. Here REL is read from a score: ``tokens.excess_loss`` writes
    it, with the model after a warm-up as the current one. The base's attention is read for the whole prompt; the
    published code reads that of the first 10,000 ids alone. ``rho: 1`` needs no local model. Ties go to the earlier token.
    """

    name: ClassVar[str] = "sstoken.select"
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> Contract:
        need = ModelNeed(config.model, Attends, field="model")
        return Contract(
            reads=frozenset({config.by}),
            writes=frozenset({config.into}),
            needs=(need,) if config.rho < 1 else (),
        )

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        out = []
        for sample, attention in zip(chunk, self._attention(chunk, ctx), strict=True):
            pool = sample.in_loss
            mix = self._mix(sample, attention, pool)
            scored = sample.score(self.config.into, mix)
            dropped = pool & ~_highest(mix, pool, self.config.keep)
            out.append(scored.mask(dropped, bit) if dropped.any() else scored)
        return out

    def _attention(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        if self.config.rho == 1:
            return [np.zeros(len(sample.ids), dtype=np.float32) for sample in samples]

        def read(missing: Sequence[TokenSample]) -> Iterator[FloatArray]:
            model = ctx.model(self.config.model).use(Attends)
            try:
                yield from response_attention(model, missing, _to_prompt, slice(-1, None))
            except ModelError as error:
                raise ModelError(f"{error}; or set rho: 1, which reads no attention") from error

        return ctx.token_scores(self.config.model, self.name, samples, read)

    def _mix(self, sample: TokenSample, attention: FloatArray, pool: BoolArray) -> FloatArray:
        fall = token_score(
            sample, self.config.by, self.name, "tokens.excess_loss, or set by to its name"
        )
        values = np.where(pool, fall, np.nan).astype(np.float64)
        known = values[~np.isnan(values)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        scaled = (values - low) / (high - low) if high > low else values * 0
        mix: FloatArray = self.config.rho * scaled + (1 - self.config.rho) * attention
        return mix.astype(np.float32)


def _to_prompt(weights: Any, sample: TokenSample) -> Any:
    """Reduce attention [H, T, T] to [T]: the mean over heads, summed over the positions before the response."""
    import torch

    prompt = torch.from_numpy(~np.logical_or.accumulate(sample.response)).to(weights.device)
    return weights.float().mean(0)[:, prompt].sum(-1)


def _highest(mix: FloatArray, pool: BoolArray, keep: float) -> BoolArray:
    """Return the mask ([T]) of the first ``ceil(n * keep)`` of the n tokens of ``pool``; NaN comes last."""
    out = pool.copy()
    # Rounded, so that 0.7 * 10 is 7.
    out[pool] = highest_scores(mix[pool], math.ceil(round(int(pool.sum()) * keep, 9)))
    return out
