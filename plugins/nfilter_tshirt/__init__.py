"""T-SHIRT (arXiv 2506.01317), token-selective half: sample selection by the tokens that depend on the instruction.

Delta is a token's loss minus its loss when only the conversation's first token and the response are read. S-IFD is exp of
a sample's mean delta over tokens in the top share of all by |delta|. Neighbours (noise on embeddings) are not implemented.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

import nfilter as nf


class SelectConfig(nf.StageConfig):
    """``ratio``: share of tokens used; ``keep``: share of samples kept; ``random``: keep as many random samples (control)."""

    model: Annotated[str, nf.Needs(nf.Scores)] = Field(
        default="student", description="The model whose token losses are read."
    )
    ratio: nf.Share = Field(
        default=0.5, description="Share of the tokens that the score uses, above 0, at most 1."
    )
    keep: nf.Share = Field(
        default=0.05, description="Share of the samples that is kept, above 0, at most 1."
    )
    random: bool = Field(default=False, description="Keep as many random samples, as a control.")


class Select:
    """Stage that keeps the samples with the highest S-IFD, ties broken at random; samples with IFD >= 1 are masked."""

    name: ClassVar[str] = "tshirt.select"
    Config: ClassVar[type[nf.StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> nf.Contract:
        return nf.Contract(writes=frozenset({"delta", "s_ifd"}))

    def fit_tokens(self, stream: Iterable[nf.TokenSample], ctx: nf.Context) -> nf.State:
        deltas = self._deltas(samples := [s for s in stream if s.weights.any()], ctx)
        sizes = np.abs(np.concatenate([[], *(d[~np.isnan(d)] for d in deltas)]))
        least = float(np.quantile(sizes, 1 - self.config.ratio)) if len(sizes) else 0.0
        ranks = [_rank(d, least, ctx.rng(s.id).random()) for s, d in zip(samples, deltas, strict=True)]  # fmt: skip
        helped = sum(rank[0] == 1 for rank in ranks)
        kept = min(max(1, int(len(samples) * self.config.keep)), helped)
        last = sorted(rank[2 * self.config.random :] for rank in ranks)[-kept] if kept else [2]
        return nf.State({"least": least, "last": last, "report": {"helped": helped, "kept": kept}})

    def process_tokens(
        self, chunk: Sequence[nf.TokenSample], state: nf.State, ctx: nf.Context, bit: int
    ) -> list[nf.TokenSample]:
        out, fitted = [], dict[str, Any](state.values)
        for sample, delta in zip(chunk, self._deltas(chunk, ctx), strict=True):
            rank = _rank(delta, fitted["least"], ctx.rng(sample.id).random())
            keep = rank[2 * self.config.random :] >= list(fitted["last"])
            scored = sample.score("delta", delta).score("s_ifd", np.exp(rank[1] + 0 * delta))
            out.append(scored if keep else scored.mask(sample.weights != 0, bit))
        return out

    def _deltas(self, samples: Sequence[nf.TokenSample], ctx: nf.Context) -> list[nf.FloatArray]:
        alone = [sample.without_prompt() for sample in samples]
        score = ctx.model(self.config.model).score
        deltas = [losses.copy() for losses in score(samples)]
        for sample, delta, losses in zip(samples, deltas, score(alone), strict=True):
            delta[sample.predicted] -= losses[1:]
        return deltas


def _rank(delta: nf.FloatArray, least: float, draw: float) -> list[float]:
    counted = delta[np.abs(delta, dtype=float) >= least].astype(float)
    helps = len(counted) > 0 and np.nanmean(delta, dtype=float) < 0
    return [int(helps), float(counted.sum()) / max(1, len(counted)), draw]


@nf.hookimpl
def nfilter_stages() -> list[type]:  # noqa: D103
    return [Select]
