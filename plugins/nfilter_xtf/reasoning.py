"""``xtf.reasoning``: mask tokens that later tokens hardly attend to (XTF, Eq. 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from nfilter import Attends, Context, Contract, FloatArray, Needs, StageConfig, State, TokenSample
from nfilter_xtf.attention import importances
from nfilter_xtf.attribute import AttributeMasking, Tally
from nfilter_xtf.presets import CapSetting, MaskSetting, PresetSetting
from nfilter_xtf.rules import LowTail


class ReasoningConfig(StageConfig):
    """Mask tokens that receive little attention under ``model``, a local model: S < Q1 - (Q3 - Q1) within the sample.

    ``cap`` bounds the share of a sample's response tokens that is masked, lowest scores first: ``auto`` is the preset's
    (5%, so no token of a response under 20 tokens; none with ``paper``), ``none`` no bound. ``mask: false`` only
    scores. ``preset: paper`` is the equation as written, ``official`` the published code, whose score is 1 / T.
    """

    model: Annotated[str, Needs(Attends)] = Field(
        default="student", description="The local model that is read."
    )
    preset: PresetSetting = "default"
    cap: CapSetting = "auto"
    mask: MaskSetting = True


class Reasoning:
    """Stage that writes ``xtf.reasoning``, [T]: attention received, 1 for uniform attention (see ``importances``).

    No token follows the last one, so it has no score and is kept.
    """

    name: ClassVar[str] = "xtf.reasoning"
    Config: ClassVar[type[StageConfig]] = ReasoningConfig

    def __init__(self, config: ReasoningConfig) -> None:
        self.config = config
        self._masking = AttributeMasking("reasoning", config.preset, config.cap, config.mask)

    @classmethod
    def contract(cls, config: ReasoningConfig) -> Contract:
        return Contract(writes=frozenset({cls.name}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Count what is masked. The run stores the scores, one forward pass per sample; duplicates are scored once."""
        rule, tally = LowTail(self.config.preset), Tally()
        samples = list(stream)
        cuts: dict[tuple[bytes, bytes], float] = {}
        for sample, scores in zip(samples, self._scores(samples, ctx), strict=True):
            tally.add(*self._masking.counts(sample, scores, rule))
            key = sample.ids.tobytes(), sample.response.tobytes()
            cuts[key] = rule.cut(scores[sample.response])
        known = [cut for cut in cuts.values() if not np.isnan(cut)]
        report = {
            **tally.report(self._masking, ctx),
            "threshold_median": round(float(np.median(known)), 6) if known else None,
        }
        return State({"report": report})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Write the scores, and mask the tokens below each sample's own threshold."""
        rule = LowTail(self.config.preset)
        return [
            self._masking.apply(sample, scores, rule, bit)
            for sample, scores in zip(chunk, self._scores(chunk, ctx), strict=True)
        ]

    def _scores(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        def read(missing: Sequence[TokenSample]) -> Iterator[FloatArray]:
            size = sum(len(sample.ids) for sample in missing)
            model = ctx.model(self.config.model).use(Attends)
            with ctx.progress(size, f"{self.name}: {self.config.model} reads") as bar:
                yield from importances(model, missing, self.config.preset, bar.advance)

        what = f"{self.name}, preset {self.config.preset}"
        return ctx.token_scores(self.config.model, what, samples, read)
