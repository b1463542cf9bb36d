"""IFD: samples whose prompt makes the response easier, but not too easy (Li et al., arXiv 2308.12032)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Context,
    Contract,
    Encodes,
    ModelNeed,
    Sample,
    Scores,
    Share,
    StageConfig,
    State,
    hookimpl,
    place_of,
    rows_by_id,
)

_BATCH = 64


class SelectConfig(StageConfig):
    """``keep``: share of the samples that is kept, those with the highest IFD below 1."""

    model: str = Field(default="student", description="The model whose token losses are read.")
    keep: Share = Field(
        default=0.1, description="Share of the samples that is kept, above 0, at most 1."
    )
    max_length: int = Field(
        default=2048, ge=2, description="Tokens per sample that are scored, at most, at least 2."
    )
    into: str = Field(default="ifd", description="The note with the IFD.")


class Select:
    """Stage that keeps the samples with the highest instruction-following difficulty (IFD) below 1.

    IFD = ppl(response | prompt) / ppl(response) = exp(mean loss with the prompt - mean loss without), over the tokens of
    the last response. Without the prompt, the response follows the first token of the conversation alone, so that its
    first token has a prediction. At 1 or above the prompt does not help to predict the response, and the sample is
    dropped. Of n samples, at most max(1, int(n * keep)) are kept; ties are ordered by id. A wrong answer to a clear question can have
    a high IFD: it measures difficulty, not correctness.
    """

    name: ClassVar[str] = "ifd.select"
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> Contract:
        needs = tuple(ModelNeed(config.model, need, field="model") for need in (Encodes, Scores))
        return Contract(writes=frozenset({config.into}), needs=needs)

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Score all samples and find the last one that is kept; the state takes 16 bytes per sample."""
        ids, logs, names = [], [], []
        rows = iter(stream)
        while batch := list(islice(rows, _BATCH)):
            for sample, value in zip(batch, self._log_ifd(batch, ctx), strict=True):
                ids.append(sample.id)
                logs.append(value)
                if value < 0:
                    names.append((-value, sample.id))
        most = max(1, int(len(ids) * self.config.keep))
        kept = sorted(names)[:most]
        arrays = rows_by_id(ids, logs=np.array(logs, dtype=np.float64))
        report = {
            "scored": int(np.isfinite(logs).sum()),
            "below_one": len(names),
            "kept": len(kept),
        }
        ctx.log.info(f"{self.name}: {len(names)} of {len(ids)} samples have an IFD below 1; {len(kept)} are kept")  # fmt: skip
        return State({"last": list(kept[-1]) if kept else None, "report": report}, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        place = place_of(state.arrays["ids"], sample.id)
        value = math.nan if place is None else float(state.arrays["logs"][place])
        if math.isnan(value):
            return sample.drop("no token of the response has a loss, so it has no IFD")
        ifd = math.exp(min(value, 700.0))
        noted = sample.note(self.config.into, {"ifd": ifd})
        if sample.pinned:
            return noted.keep("pinned by a user: not changed")
        if value >= 0:
            return noted.drop(f"IFD {ifd:.3f}: the prompt does not make the response more likely")
        last: Any = state.values["last"]
        if last is None or [-value, sample.id] > list(last):
            return noted.drop(f"IFD {ifd:.3f} is below that of the samples that are kept")
        return noted.keep(f"IFD {ifd:.3f}")

    def _log_ifd(self, samples: Sequence[Sample], ctx: Context) -> Iterator[float]:
        """Yield the mean loss with the prompt minus that without it; NaN if no token has a loss."""
        model = ctx.model(self.config.model)
        whole = model.encode(samples, max_length=self.config.max_length, turns="last")
        scored = [sample for sample in whole if sample.predicted.any()]
        pairs = zip(
            model.score(scored),
            model.score([sample.without_prompt() for sample in scored]),
            strict=True,
        )
        for sample in whole:
            if not sample.predicted.any():
                yield math.nan
                continue
            with_prompt, without = next(pairs)
            yield float(np.nanmean(with_prompt, dtype=float) - np.nanmean(without, dtype=float))


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    return [Select]
