"""``xtf.novelty``: what the base model predicts anyway teaches it nothing (XTF, Eq. 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from nfilter import (
    Context,
    Contract,
    FloatArray,
    ModelNeed,
    Scores,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_xtf.attribute import Attributed, Tally
from nfilter_xtf.choose import KNOWN, Known, scores_of
from nfilter_xtf.presets import Cap, Preset

_BLOCK = 256


class NoveltyConfig(StageConfig):
    """Masks tokens with 1 - p < .05 under ``model``, the base before training.

    ``loss`` names a token score that holds -log p already, such as ``loss.base``; nothing is computed then. ``cap``
    bounds the share of a sample's response tokens that is masked, the lowest first: ``auto`` is the preset's (10%; none
    with ``paper``), ``none`` no bound. ``mask: false`` only scores. Novel is not right: a wrong token is *highly* novel,
    and this never removes it.
    """

    model: str = "student"
    loss: str | None = None
    preset: Preset = "default"
    cap: Cap = "auto"
    mask: bool = True


class Novelty:
    """Writes ``xtf.novelty``, 1 - p(token | tokens before it), [T]; NaN where nothing predicts the token."""

    name: ClassVar[str] = "xtf.novelty"
    Config: ClassVar[type[StageConfig]] = NoveltyConfig

    def __init__(self, config: NoveltyConfig) -> None:
        self.config = config
        self._rest = Attributed("novelty", config.preset, config.cap, config.mask)

    @classmethod
    def contract(cls, config: NoveltyConfig) -> Contract:
        """Writes a score; reads the losses or needs a model that has them."""
        writes = frozenset({cls.name})
        if config.loss is not None:
            return Contract(reads=frozenset({config.loss}), writes=writes)
        return Contract(writes=writes, needs=(ModelNeed(config.model, Scores, field="model"),))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Count what will be masked. The model's losses are kept by the run, and computed once."""
        tally = Tally()
        samples = iter(stream)
        while block := list(islice(samples, _BLOCK)):
            for sample, scores in zip(block, self._scores(block, ctx), strict=True):
                tally.add(*self._rest.counted(sample, scores, Known()))
        report = tally.report(self._rest, ctx)
        return State({"report": {**report, "threshold": KNOWN}})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Score the chunk, and mask what is known."""
        del state
        return [
            self._rest.applied(sample, scores, Known(), bit)
            for sample, scores in zip(chunk, self._scores(chunk, ctx), strict=True)
        ]

    def _scores(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        losses: list[FloatArray]
        if self.config.loss is None:
            losses = ctx.model(self.config.model).score(samples)
        else:
            losses = [
                scores_of(sample, self.config.loss, self.name, "tokens.excess_loss, reference: ...")
                for sample in samples
            ]
        return [
            novelty(loss, sample.response) for sample, loss in zip(samples, losses, strict=True)
        ]


def novelty(losses: Any, response: Any) -> FloatArray:
    """float32 [T]: 1 - exp(-loss), worked out in float64; NaN outside the response."""
    scores = -np.expm1(-np.asarray(losses, dtype=np.float64))
    return np.where(response, scores, np.nan).astype(np.float32)
