"""``segments.mask``: leave segments of reasoning that matter little for the answer out of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import (
    Attributes,
    BoolArray,
    Context,
    Contract,
    FloatArray,
    IntArray,
    LendsModule,
    ModelNeed,
    Scores,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_segments.entropy import entropies
from nfilter_segments.split import Parts, split

WORDS = (
    "Wait", "But", "However", "Alternatively", "Hmm", "Hold on", "Let me", "Let's", "Actually", "Another", "Maybe", "Perhaps",
)  # fmt: skip


class MaskConfig(StageConfig):
    """``keep`` is tau of the paper, ``consistency`` beta, ``steps`` J."""

    model: str = Field(default="student", description="The local model that is read.")
    by: Literal["attribution", "entropy", "loss"] = Field(
        default="attribution",
        description="What a token counts: attribution, by gradients; entropy of its prediction; loss, for any model that scores.",
    )
    keep: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the total strength that the strongest segments have together, above 0, at most 1.",
    )
    consistency: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Strong segments above this direction consistency are masked too, 0 to 1; only by attribution.",
    )
    steps: int = Field(
        default=50,
        ge=1,
        le=1000,
        description="Forward and backward passes per sample, 1 to 1000; 20 to 50 are usual.",
    )
    ends: bool = Field(default=True, description="Keep the first and the last segment always.")
    words: tuple[str, ...] = Field(
        default=WORDS,
        min_length=1,
        max_length=200,
        description="Words that begin a segment after a blank line, upper or lower case.",
    )
    random: bool = Field(
        default=False, description="Mask as many tokens of random segments, as a control."
    )
    into: str = Field(
        default="segments", description="The score with the share of the segment in the strength."
    )


class Mask:
    """Stage that masks the segments of a sample's reasoning that are not important for its answer.

    Segments S of N tokens with attributions a (Eqs. 3 to 7): strength = sum |a| / sqrt(N), consistency = |sum a| / sum |a|. In
    the order of their strength, the fewest segments with at least ``keep`` of the total strength are important, except those
    with a consistency above ``consistency``: attributions of one sign are shallow reasoning. The others leave the loss and
    stay in the input. The first and the last segment, and the answer, are always kept.

    ``entropy`` and ``loss`` need no gradients and put the entropy or loss of a token in the place of |a|; consistency is then
    not read. The paper finds important segments by attribution, and those have a lower entropy than the others.

    With ``random: true`` as many tokens of each sample are masked in segments drawn at random, of the last one only a part.
    """

    name: ClassVar[str] = "segments.mask"
    Config: ClassVar[type[StageConfig]] = MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MaskConfig) -> Contract:
        need = {"attribution": Attributes, "entropy": LendsModule, "loss": Scores}[config.by]
        return Contract(
            writes=frozenset({config.into}), needs=(ModelNeed(config.model, need, field="model"),)
        )

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        parts = [split(sample, self.config.words) for sample in chunk]
        found = self._scores(chunk, ctx)
        return [
            self._masked(sample, part, scores, ctx, bit)
            for sample, part, scores in zip(chunk, parts, found, strict=True)
        ]

    def _scores(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        config = self.config
        if config.by == "loss":
            return ctx.model(config.model).score(samples)
        what = (
            f"integrated gradients, {config.steps} steps"
            if config.by == "attribution"
            else "entropy"
        )
        read = self._attributions if config.by == "attribution" else self._entropies
        return ctx.token_scores(
            config.model, f"{self.name}, {what}", samples, lambda missing: read(missing, ctx)
        )

    def _attributions(self, samples: Sequence[TokenSample], ctx: Context) -> Iterator[FloatArray]:
        model = ctx.model(self.config.model).use(Attributes)
        return model.attributions(samples, self._sources_and_targets, self.config.steps)

    def _sources_and_targets(self, sample: TokenSample) -> tuple[IntArray, IntArray]:
        """Return the positions of reasoning and answer, which do not depend on the words."""
        parts = split(sample, self.config.words)
        return parts.reasoning, parts.answer[parts.answer > 0]

    def _entropies(self, samples: Sequence[TokenSample], ctx: Context) -> Iterator[FloatArray]:
        with ctx.model(self.config.model).lend() as lent:
            for sample in samples:
                yield entropies(lent.module, sample)

    def _masked(
        self, sample: TokenSample, parts: Parts, scores: FloatArray, ctx: Context, bit: int
    ) -> TokenSample:
        shares = np.full(len(sample.ids), np.nan, dtype=np.float32)
        values = [np.nan_to_num(scores[part].astype(np.float64)) for part in parts.segments]
        strength, kept = important(values, self.config)
        for part, share in zip(parts.segments, strength, strict=True):
            shares[part] = share
        dropped = np.zeros(len(sample.ids), dtype=np.bool_)
        for part, keep in zip(parts.segments, kept, strict=True):
            dropped[part] = not keep
        dropped &= sample.weights != 0
        if self.config.random:
            dropped = self._drawn(sample, parts, int(dropped.sum()), ctx)
        scored = sample.score(self.config.into, shares)
        return scored.mask(dropped, bit) if dropped.any() else scored

    def _drawn(self, sample: TokenSample, parts: Parts, count: int, ctx: Context) -> BoolArray:
        """Return the mask ([T]) of ``count`` tokens in the loss, of segments in random order."""
        inner = list(parts.segments[1:-1] if self.config.ends else parts.segments)
        ctx.rng(sample.id).shuffle(inner)
        order: IntArray = np.concatenate([np.zeros(0, dtype=np.int64), *inner])
        order = order[sample.weights[order] != 0]
        out = np.zeros(len(sample.ids), dtype=np.bool_)
        out[order[:count]] = True
        return out


def important(
    values: Sequence[npt.NDArray[Any]], config: MaskConfig
) -> tuple[FloatArray, BoolArray]:
    """Return for the segments with the token values ``values``: the share of the total strength, and whether each is kept.

    Without any strength all are kept. Of equal segments the earlier is stronger.
    """
    sizes = np.array([len(each) for each in values])
    sums = np.array([np.abs(each).sum() for each in values])
    strength = sums / np.sqrt(sizes)
    total = strength.sum()
    if not total > 0:
        return strength, np.ones(len(values), dtype=np.bool_)
    shares: FloatArray = strength / total
    order = np.argsort(-shares, kind="stable")
    # Rounded, so that shares of .4 and .3 reach .7.
    count = 1 + int(np.sum(np.cumsum(shares[order]) < config.keep - 1e-9))
    kept = np.zeros(len(values), dtype=np.bool_)
    kept[order[:count]] = True
    if config.by == "attribution":
        net = np.array([abs(each.sum()) for each in values])
        kept &= net <= config.consistency * sums
    if config.ends:
        kept[[0, -1]] = True
    return shares, kept
