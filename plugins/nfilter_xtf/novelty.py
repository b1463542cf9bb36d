"""``xtf.novelty``: mask tokens that the base model already predicts (XTF, Eq. 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Context,
    Contract,
    FloatArray,
    ModelNeed,
    Scores,
    StageConfig,
    State,
    TokenSample,
    token_score,
)
from nfilter_xtf.attribute import AttributeMasking, Tally
from nfilter_xtf.presets import CapSetting, MaskSetting, PresetSetting
from nfilter_xtf.rules import KNOWN, Known

_BLOCK = 256


class NoveltyConfig(StageConfig):
    """Mask tokens with 1 - p < .05 under ``model``, the base before training.

    ``loss`` names an existing token score with -log p, such as ``loss.base``, to use in place of the model. ``cap``
    bounds the share of a sample's response tokens that is masked, lowest scores first: ``auto`` is the preset's (10%;
    none with ``paper``), ``none`` no bound. ``mask: false`` only scores. A wrong token is *highly* novel, so this stage
    never removes it.
    """

    model: str = Field(default="student", description="The model before training.")
    loss: str | None = Field(
        default=None, description="A score with -log p, such as loss.base, in place of the model."
    )
    preset: PresetSetting = "default"
    cap: CapSetting = "auto"
    mask: MaskSetting = True


class Novelty:
    """Stage that writes ``xtf.novelty``, 1 - p(token | previous tokens), [T]; NaN for a token without a prediction."""

    name: ClassVar[str] = "xtf.novelty"
    Config: ClassVar[type[StageConfig]] = NoveltyConfig

    def __init__(self, config: NoveltyConfig) -> None:
        self.config = config
        self._masking = AttributeMasking("novelty", config.preset, config.cap, config.mask)

    @classmethod
    def contract(cls, config: NoveltyConfig) -> Contract:
        writes = frozenset({cls.name})
        if config.loss is not None:
            return Contract(reads=frozenset({config.loss}), writes=writes)
        return Contract(writes=writes, needs=(ModelNeed(config.model, Scores, field="model"),))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Count the tokens to mask; the run caches the model's losses, so they are computed once."""
        tally = Tally()
        samples = iter(stream)
        while block := list(islice(samples, _BLOCK)):
            for sample, scores in zip(block, self._scores(block, ctx), strict=True):
                tally.add(*self._masking.counts(sample, scores, Known()))
        report = tally.report(self._masking, ctx)
        return State({"report": {**report, "threshold": KNOWN}})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        return [
            self._masking.apply(sample, scores, Known(), bit)
            for sample, scores in zip(chunk, self._scores(chunk, ctx), strict=True)
        ]

    def _scores(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        losses: list[FloatArray]
        if self.config.loss is None:
            losses = ctx.model(self.config.model).score(samples)
        else:
            losses = [
                token_score(
                    sample, self.config.loss, self.name, "{use: tokens.excess_loss, reference: ...}"
                )
                for sample in samples
            ]
        return [
            novelty(loss, sample.response) for sample, loss in zip(samples, losses, strict=True)
        ]


def novelty(losses: Any, response: Any) -> FloatArray:
    """Return 1 - exp(-loss) as float32 [T], computed in float64; NaN outside the response."""
    scores = -np.expm1(-np.asarray(losses, dtype=np.float64))
    return np.where(response, scores, np.nan).astype(np.float32)
