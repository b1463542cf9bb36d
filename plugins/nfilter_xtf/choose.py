"""Which tokens an attribute takes out: a rule on scores, a cap on how many, and one token that stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nfilter import BoolArray, FloatArray, RecipeError, TokenSample
from nfilter_xtf.otsu import CLASSES, multi_otsu
from nfilter_xtf.presets import Preset

KNOWN = 0.05
_NOISE = 1e-6
_TINY = 1e-30


class Rule(Protocol):
    """Says which of a sample's response tokens are noise, by their scores alone."""

    def hits(self, scores: FloatArray) -> BoolArray:
        """Scores of the response's tokens ([n]) to whether each is noise ([n]); never where a score is NaN."""
        ...


@dataclass(frozen=True, slots=True)
class LowTail:
    """Reasoning importance (Eq. 5): S < Q1 - (Q3 - Q1), quartiles over the sample's response tokens.

    ``default`` takes quartiles of log S, and a token has to lie under the cut by more than float32 rounding;
    ``official`` cuts at Q1 - 1.5 (Q3 - Q1).
    """

    preset: Preset

    def cut(self, scores: FloatArray) -> float:
        """The score under which a token is noise; NaN where no token has a score."""
        s = self._scale(scores)
        s = s[~np.isnan(s)]
        if not len(s):
            return math.nan
        low, high = np.quantile(s, [0.25, 0.75])
        if self.preset == "default":
            return math.exp(low - (high - low) - _NOISE)
        return float(low - (1.5 if self.preset == "official" else 1.0) * (high - low))

    def hits(self, scores: FloatArray) -> BoolArray:
        """Under the cut of these very scores."""
        found: BoolArray = np.asarray(scores, dtype=np.float64) < self.cut(scores)
        return found

    def _scale(self, scores: FloatArray) -> Any:
        s = np.asarray(scores, dtype=np.float64)
        # A token that draws nothing at all has no logarithm.
        return np.log(np.maximum(s, _TINY)) if self.preset == "default" else s


@dataclass(frozen=True, slots=True)
class Known:
    """Knowledge novelty (Eq. 6): S < .05, strictly, in float64."""

    def hits(self, scores: FloatArray) -> BoolArray:
        """What the model knows already."""
        found: BoolArray = np.asarray(scores, dtype=np.float64) < KNOWN
        return found


@dataclass(frozen=True, slots=True)
class Band:
    """Task relevance (Eq. 7): the scores of one class, low <= S < high; no score where there are no classes."""

    low: float
    high: float

    @classmethod
    def of(cls, cuts: Sequence[float] | None, preset: Preset) -> Band:
        """The lowest class; with ``paper`` the one above it, as the lowest is white space there."""
        if cuts is None:
            return cls(math.inf, -math.inf)
        return cls(cuts[0], cuts[1]) if preset == "paper" else cls(-math.inf, cuts[0])

    def hits(self, scores: FloatArray) -> BoolArray:
        """Within the class."""
        s = np.asarray(scores, dtype=np.float64)
        found: BoolArray = (s >= self.low) & (s < self.high)
        return found


def classes_of(scores: Any, counts: Any) -> list[float] | None:
    """The cuts through relevance scores ([n], NaN for what is exempt), each there ``counts`` times; None for none."""
    there = ~np.isnan(scores)
    cuts = multi_otsu(np.asarray(scores)[there], np.asarray(counts)[there], CLASSES)
    return None if cuts is None else [float(cut) for cut in cuts]


def pool_of(sample: TokenSample) -> BoolArray:
    """The positions that may be masked ([T]): a response token that has a weight."""
    pool: BoolArray = sample.response & (sample.weights != 0)
    return pool


def scores_of(sample: TokenSample, name: str, stage: str, writer: str) -> FloatArray:
    """The token score ``name`` ([T]). Raises RecipeError where no stage before ``stage`` wrote it."""
    found = sample.scores.get(name)
    if found is None:
        there = ", ".join(sorted(sample.scores)) or "none"
        raise RecipeError(
            f"{stage}: sample {sample.id!r} has no score {name!r} (there: {there}); put the stage that writes it "
            f"before this one, such as {{use: {writer}}}"
        )
    return found


def under(sample: TokenSample, scores: FloatArray, rule: Rule) -> BoolArray:
    """The positions ([T]) of the pool that are noise by ``rule``, before any cap."""
    hits = np.zeros(len(scores), dtype=np.bool_)
    hits[sample.response] = rule.hits(scores[sample.response])
    return hits & pool_of(sample)


def capped(
    sample: TokenSample, scores: FloatArray, hits: BoolArray, cap: float | None
) -> BoolArray:
    """The lowest scores among ``hits``, ``floor(cap * response tokens)`` at most; ties go by position."""
    # Rounded, so that .29 of 100 is 29.
    most = len(hits) if cap is None else math.floor(round(cap * int(sample.response.sum()), 9))
    where = np.flatnonzero(hits)
    order = np.argsort(scores[where], kind="stable")
    out = np.zeros(len(hits), dtype=np.bool_)
    out[where[order[:most]]] = True
    return out


def spare_one(sample: TokenSample, scores: FloatArray, lost: BoolArray) -> BoolArray:
    """``lost`` less the token with the best score where it would be the whole pool; the first of equals."""
    pool = pool_of(sample)
    if not pool.any() or not lost[pool].all():
        return lost
    where = np.flatnonzero(pool)
    best = where[np.argmax(np.nan_to_num(scores[where], nan=-np.inf))]
    out = lost.copy()
    out[best] = False
    return out
