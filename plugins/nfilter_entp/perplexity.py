"""The one rule that needs a model: responses that it finds far too easy or far too hard."""

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
    """exp of the mean loss of the response's tokens under ``model``, outside a band from ``low`` to ``high``.

    ``unit: quantile`` takes both as shares of the rows (0.01 and 0.99), ``unit: absolute`` as perplexities. A row is scored up to
    ``max_length`` tokens; one without a scored token passes.
    """

    model: str = "student"
    low: float | None = Field(default=None, ge=0)
    high: float | None = Field(default=None, ge=0)
    unit: Literal["quantile", "absolute"] = "quantile"
    max_length: int = Field(default=2048, ge=2)

    @model_validator(mode="after")
    def _a_band(self) -> Perplexity:
        if self.low is None and self.high is None:
            raise ValueError("perplexity needs low, high or both, such as low: 0.01, high: 0.99")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low: {self.low:g} is not under high: {self.high:g}")
        if self.unit == "quantile" and any((v or 0) > 1 for v in (self.low, self.high)):
            raise ValueError("a quantile is from 0 to 1; write unit: absolute for perplexities")
        return self

    def needs(self) -> tuple[ModelNeed, ...]:
        """The model, and what is asked of it."""
        return tuple(ModelNeed(self.model, need, field="rules") for need in (Encodes, Scores))


@dataclass
class Scored:
    """The mean loss of each row, 12 bytes a row; rows are scored in batches."""

    rule: Perplexity
    ctx: Context
    waiting: list[Sample] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)
    means: bytearray = field(default_factory=bytearray)

    def add(self, sample: Sample) -> None:
        """Take a row in."""
        self.waiting.append(sample)
        if len(self.waiting) == BATCH:
            self._score()

    def _score(self) -> None:
        for sample, mean in zip(
            self.waiting, mean_losses(self.waiting, self.rule, self.ctx), strict=True
        ):
            self.ids += hash_of(sample.id).to_bytes(8, "little")
            self.means += np.float32(mean).tobytes()
        self.waiting.clear()

    def settle(self) -> tuple[dict[str, npt.NDArray[Any]], list[float | None]]:
        """Arrays for a state, sorted by id, and the band in mean losses; a side that is open is None."""
        if self.waiting:
            self._score()
        ids, means = np.frombuffer(self.ids, "<u8"), np.frombuffer(self.means, "<f4")
        order = np.argsort(ids, kind="stable")
        known = means[np.isfinite(means)].astype(float)
        band: list[float | None] = []
        for side in (self.rule.low, self.rule.high):
            if side is None or (self.rule.unit == "quantile" and not len(known)):
                band.append(None)
            elif self.rule.unit == "quantile":
                band.append(float(np.quantile(known, side)))
            else:
                band.append(math.log(side) if side > 0 else None)
        return {"scored": ids[order].astype(np.uint64), "means": means[order].copy()}, band


def mean_losses(samples: Sequence[Sample], rule: Perplexity, ctx: Context) -> list[float]:
    """The mean loss of each response; NaN where no token has one."""
    model = ctx.model(rule.model)
    encoded = model.encode(samples, max_length=rule.max_length, turns="last")
    losses = model.score(encoded)
    means = []
    for each in losses:
        known = np.asarray(each, float)
        known = known[np.isfinite(known)]
        means.append(float(known.mean()) if len(known) else math.nan)
    return means


def outsiders(
    arrays: Mapping[str, npt.NDArray[Any]], band: Sequence[float | None]
) -> npt.NDArray[np.uint64]:
    """The numbers of the ids of rows outside the band, sorted."""
    low, high = (-np.inf if band[0] is None else band[0]), (np.inf if band[1] is None else band[1])
    means = arrays["means"]
    return np.asarray(arrays["scored"][(means < low) | (means > high)])


def perplexed(
    name: str, arrays: Mapping[str, npt.NDArray[Any]], band: Sequence[float | None]
) -> str | None:
    """Why the row is outside the band."""
    place = place_of(arrays["scored"], name)
    if place is None:
        return None
    mean, (low, high) = float(arrays["means"][place]), band
    if low is not None and mean < low:
        return f"{_shown(mean)}, under {_shown(low)}"
    if high is not None and mean > high:
        return f"{_shown(mean)}, over {_shown(high)}"
    return None


def _shown(mean: float) -> str:
    return f"{math.exp(mean):.4g}" if mean < 700 else f"exp({mean:.4g})"
