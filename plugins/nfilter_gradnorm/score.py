"""``gradnorm.score``: flag the samples with the largest gradient norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    Encodes,
    FloatArray,
    LendsModule,
    ModelNeed,
    Sample,
    Share,
    StageConfig,
    State,
    TokenSample,
    Verdict,
    place_of,
    rows_by_id,
)
from nfilter_gradnorm.norm import head_norm

_BATCH = 64


class ScoreConfig(StageConfig):
    """``keep``: share of the samples that is not flagged, those with the smallest norms."""

    model: str = Field(default="student", description="The local model whose gradients are read.")
    keep: Share = Field(
        default=0.7, description="Share of the samples that is not flagged, above 0, at most 1."
    )
    drop: bool = Field(default=False, description="Drop flagged samples.")
    random: bool = Field(
        default=False, description="Flag as many random samples, as a control; reads no gradients."
    )
    max_length: int = Field(
        default=2048, ge=2, description="Tokens per sample that are read, at most, at least 2."
    )
    into: str = Field(default="gradnorm", description="The note with the verdict.")


class Score:
    """Stage that writes a verdict from the gradient norm of each sample's loss: the largest norms are flagged.

    The norm is that of the gradient of the mean loss over the last response with respect to the output matrix of the language
    model, before any training (``head_norm``). A wrong label is unlikely under the model, and its gradient is large; so is that
    of a right label that the model finds hard. Of n samples with a norm, max(1, int(n * keep)) have no flag; ties are ordered by
    id. The noise score is the rank of the norm, from 0, the smallest, to 1. A sample without a loss has no verdict.

    The published scores (GraNd) take the gradient of all parameters, averaged over trainings.
    """

    name: ClassVar[str] = "gradnorm.score"
    Config: ClassVar[type[StageConfig]] = ScoreConfig

    def __init__(self, config: ScoreConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ScoreConfig) -> Contract:
        capabilities = () if config.random else (Encodes, LendsModule)
        own = frozenset({config.into})
        return Contract(
            writes=own,
            verdicts=own,
            sometimes=own,
            needs=tuple(ModelNeed(config.model, each, field="model") for each in capabilities),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Rank all samples by their norms; the state takes 24 bytes per sample."""
        names: list[str] = []
        norms: list[float] = []
        rows = iter(stream)
        while batch := list(islice(rows, _BATCH)):
            names += [sample.id for sample in batch]
            norms += self._norms(batch, ctx)
        order = sorted((norm, name, i) for i, (norm, name) in enumerate(zip(norms, names, strict=True)) if not math.isnan(norm))  # fmt: skip
        ranks = np.full(len(names), -1, dtype=np.int64)
        for rank, (_, _, place) in enumerate(order):
            ranks[place] = rank
        kept = max(1, int(len(order) * self.config.keep)) if order else 0
        ctx.log.info(f"{self.name}: {len(order) - kept} of {len(order)} samples are flagged")
        report: dict[str, JSON] = {"scored": len(order), "flagged": len(order) - kept}
        values: dict[str, JSON] = {"scored": len(order), "kept": kept, "report": report}
        arrays = rows_by_id(names, ranks=ranks, norms=np.array(norms, dtype=np.float64))
        return State(values, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        place = place_of(state.arrays["ids"], sample.id)
        rank = -1 if place is None else int(state.arrays["ranks"][place])
        if place is None or rank < 0:
            return sample.keep("no token of the response has a loss, so it has no gradient norm")
        n, kept = (int(str(state.values[name])) for name in ("scored", "kept"))
        value = float(state.arrays["norms"][place])
        flagged = rank >= kept and not sample.pinned
        more: dict[str, JSON] = {} if self.config.random else {"norm": value}
        verdict = Verdict(flagged=flagged, noise_score=rank / max(1, n - 1), more=more)
        noted = sample.note(self.config.into, verdict.to_json())
        what = "random rank" if self.config.random else f"gradient norm {value:.4g}, rank"
        reason = f"{what} {rank + 1} of {n}; the first {kept} are not flagged"
        return noted.drop(reason) if flagged and self.config.drop else noted.keep(reason)

    def _norms(self, samples: Sequence[Sample], ctx: Context) -> list[float]:
        if self.config.random:
            return [ctx.rng(sample.id).random() for sample in samples]
        model = ctx.model(self.config.model)
        encoded = model.encode(samples, max_length=self.config.max_length, turns="last")

        def read(missing: Sequence[TokenSample]) -> Iterator[FloatArray]:
            with model.lend() as lent:
                for one in missing:
                    # The cache stores numbers per token: all tokens of the response have the norm.
                    norm = head_norm(lent.module, one)
                    yield np.where(one.response, norm, np.nan).astype(np.float32)

        found = ctx.token_scores(self.config.model, f"{self.name}, output matrix", encoded, read)
        pairs = zip(encoded, found, strict=True)
        return [
            float(values[one.response][0]) if one.predicted.any() else math.nan
            for one, values in pairs
        ]
