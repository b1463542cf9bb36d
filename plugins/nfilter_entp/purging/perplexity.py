"""The only rule that needs a model: responses whose perplexity is outside a band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nfilter import Context, Encodes, ModelNeed, Sample, Scores, StageConfig, hash_of, place_of

BATCH = 64


class Perplexity(StageConfig):
    """The perplexity of the response (exp of its tokens' mean loss) under ``model`` is outside the band from ``low`` to ``high``.

    ``unit: quantile`` reads both as shares of the rows (0.01 and 0.99), ``unit: absolute`` as perplexities. A row is scored up to
    ``max_length`` tokens; one without a scored token passes.
    """

    model: str = Field(default="student", description="The model that scores the response.")
    low: float | None = Field(
        default=None, ge=0, description="The lower end of the band; null for none."
    )
    high: float | None = Field(
        default=None, ge=0, description="The upper end of the band; null for none."
    )
    unit: Literal["quantile", "absolute"] = Field(
        default="quantile",
        description="quantile: the ends are shares of the rows, 0 to 1; absolute: perplexities.",
    )
    max_length: int = Field(
        default=2048, ge=2, description="Tokens per row that are scored, at most, at least 2."
    )

    @model_validator(mode="after")
    def _check_band(self) -> Perplexity:
        if self.low is None and self.high is None:
            raise ValueError("perplexity needs low, high or both, such as low: 0.01, high: 0.99")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low: {self.low:g} is not under high: {self.high:g}")
        if self.unit == "quantile" and any((v or 0) > 1 for v in (self.low, self.high)):
            raise ValueError("a quantile is from 0 to 1; write unit: absolute for perplexities")
        return self

    def needs(self) -> tuple[ModelNeed, ...]:
        """Return the model with the capabilities it needs."""
        return tuple(ModelNeed(self.model, need, field="rules") for need in (Encodes, Scores))


@dataclass
class LossCollector:
    """Scores rows in batches and stores the mean loss of each, 12 bytes per row."""

    rule: Perplexity
    ctx: Context
    pending: list[Sample] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)
    means: bytearray = field(default_factory=bytearray)

    def add(self, sample: Sample) -> None:
        """Add a row."""
        self.pending.append(sample)
        if len(self.pending) == BATCH:
            self._score_pending()

    def _score_pending(self) -> None:
        for sample, mean in zip(
            self.pending, mean_losses(self.pending, self.rule, self.ctx), strict=True
        ):
            self.ids += hash_of(sample.id).to_bytes(8, "little")
            self.means += np.float32(mean).tobytes()
        self.pending.clear()

    def result(self) -> tuple[dict[str, npt.NDArray[Any]], list[float | None]]:
        """Return the state arrays, sorted by id, and the band as mean losses; None for an open side."""
        if self.pending:
            self._score_pending()
        ids, means = np.frombuffer(self.ids, "<u8"), np.frombuffer(self.means, "<f4")
        order = np.argsort(ids, kind="stable")
        finite = means[np.isfinite(means)].astype(float)
        band: list[float | None] = []
        for side in (self.rule.low, self.rule.high):
            if side is None or (self.rule.unit == "quantile" and not len(finite)):
                band.append(None)
            elif self.rule.unit == "quantile":
                band.append(float(np.quantile(finite, side)))
            else:
                band.append(math.log(side) if side > 0 else None)
        return {"scored": ids[order].astype(np.uint64), "means": means[order].copy()}, band


def mean_losses(samples: Sequence[Sample], rule: Perplexity, ctx: Context) -> list[float]:
    """Return the mean loss of each response; NaN if no token has a loss."""
    model = ctx.model(rule.model)
    encoded = model.encode(samples, max_length=rule.max_length, turns="last")
    losses = model.score(encoded)
    means = []
    for token_losses in losses:
        finite = np.asarray(token_losses, float)
        finite = finite[np.isfinite(finite)]
        means.append(float(finite.mean()) if len(finite) else math.nan)
    return means


def outside_band(
    arrays: Mapping[str, npt.NDArray[Any]], band: Sequence[float | None]
) -> npt.NDArray[np.uint64]:
    """Return the id hashes of rows outside the band, sorted."""
    low, high = (-np.inf if band[0] is None else band[0]), (np.inf if band[1] is None else band[1])
    means = arrays["means"]
    return np.asarray(arrays["scored"][(means < low) | (means > high)])


def outside_band_reason(
    name: str, arrays: Mapping[str, npt.NDArray[Any]], band: Sequence[float | None]
) -> str | None:
    """Return the reason if the row is outside the band."""
    index = place_of(arrays["scored"], name)
    if index is None:
        return None
    mean, (low, high) = float(arrays["means"][index]), band
    if low is not None and mean < low:
        return f"{_as_perplexity(mean)}, under {_as_perplexity(low)}"
    if high is not None and mean > high:
        return f"{_as_perplexity(mean)}, over {_as_perplexity(high)}"
    return None


def _as_perplexity(mean: float) -> str:
    return f"{math.exp(mean):.4g}" if mean < 700 else f"exp({mean:.4g})"
