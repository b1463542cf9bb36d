"""Token masks of an attribute: a rule on scores, a cap on the number of tokens, and one token that is always kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nfilter import BoolArray, FloatArray, IntArray, TokenSample
from nfilter_xtf.otsu import CLASSES, multi_otsu
from nfilter_xtf.presets import Preset

KNOWN = 0.05
_ROUNDING = 1e-6
_TINY = 1e-30


class Rule(Protocol):
    """Classifier of a sample's response tokens as noise, by their scores alone."""

    def hits(self, scores: FloatArray) -> BoolArray:
        """Return which response tokens ([n]) are noise, given their scores ([n]); never where a score is NaN."""
        ...


@dataclass(frozen=True, slots=True)
class LowTail:
    """Reasoning importance (Eq. 5): noise if S < Q1 - (Q3 - Q1), with quartiles over the sample's response tokens.

    ``default`` takes quartiles of log S and requires a distance below the cut of more than float32 rounding;
    ``official`` cuts at Q1 - 1.5 (Q3 - Q1).
    """

    preset: Preset

    def cut(self, scores: FloatArray) -> float:
        """Return the score below which a token is noise; NaN if no token has a score."""
        s = self._scale(scores)
        s = s[~np.isnan(s)]
        if not len(s):
            return math.nan
        low, high = np.quantile(s, [0.25, 0.75])
        if self.preset == "default":
            return math.exp(low - (high - low) - _ROUNDING)
        return float(low - (1.5 if self.preset == "official" else 1.0) * (high - low))

    def hits(self, scores: FloatArray) -> BoolArray:
        """Return which scores are below their own cut."""
        hits: BoolArray = np.asarray(scores, dtype=np.float64) < self.cut(scores)
        return hits

    def _scale(self, scores: FloatArray) -> Any:
        s = np.asarray(scores, dtype=np.float64)
        # A token that receives no attention has no logarithm.
        return np.log(np.maximum(s, _TINY)) if self.preset == "default" else s


@dataclass(frozen=True, slots=True)
class Known:
    """Knowledge novelty (Eq. 6): noise if S < .05, strictly, in float64."""

    def hits(self, scores: FloatArray) -> BoolArray:
        """Return which tokens the model already predicts."""
        hits: BoolArray = np.asarray(scores, dtype=np.float64) < KNOWN
        return hits


@dataclass(frozen=True, slots=True)
class Band:
    """Task relevance (Eq. 7): noise if the score is in one class, low <= S < high; the band is empty without classes."""

    low: float
    high: float

    @classmethod
    def of(cls, cuts: Sequence[float] | None, preset: Preset) -> Band:
        """Return the lowest class; for ``paper`` the next one, because there the lowest is white space."""
        if cuts is None:
            return cls(math.inf, -math.inf)
        return cls(cuts[0], cuts[1]) if preset == "paper" else cls(-math.inf, cuts[0])

    def hits(self, scores: FloatArray) -> BoolArray:
        """Return which scores are in the class."""
        s = np.asarray(scores, dtype=np.float64)
        hits: BoolArray = (s >= self.low) & (s < self.high)
        return hits


def occurrences(parts: Iterable[Any], dtype: type) -> tuple[Any, IntArray]:
    """Return the distinct values in ``parts`` ([n], ascending, of ``dtype``) and the number of occurrences of each ([n])."""
    total: Counter[Any] = Counter()
    for part in parts:
        values, times = np.unique(part, return_counts=True)
        total.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    ordered = sorted(total)
    counts = np.array([total[value] for value in ordered], dtype=np.int64)
    return np.array(ordered, dtype=dtype), counts


def relevance_cuts(scores: Any, counts: Any) -> list[float] | None:
    """Return the cuts between classes of relevance scores ([n], NaN: exempt) weighted by ``counts``; None without classes."""
    scored = ~np.isnan(scores)
    cuts = multi_otsu(np.asarray(scores)[scored], np.asarray(counts)[scored], CLASSES)
    return None if cuts is None else [float(cut) for cut in cuts]


def noise_mask(sample: TokenSample, scores: FloatArray, rule: Rule) -> BoolArray:
    """Return the positions ([T]) of the pool that are noise by ``rule``, before any cap."""
    hits = np.zeros(len(scores), dtype=np.bool_)
    hits[sample.response] = rule.hits(scores[sample.response])
    return hits & sample.in_loss


def lowest_within_cap(
    sample: TokenSample, scores: FloatArray, hits: BoolArray, cap: float | None
) -> BoolArray:
    """Return the lowest-scored ``hits``, at most ``floor(cap * response tokens)``; ties are broken by position."""
    # Rounded, so that 0.29 * 100 is 29.
    limit = len(hits) if cap is None else math.floor(round(cap * int(sample.response.sum()), 9))
    positions = np.flatnonzero(hits)
    order = np.argsort(scores[positions], kind="stable")
    out = np.zeros(len(hits), dtype=np.bool_)
    out[positions[order[:limit]]] = True
    return out


def below_rank(sample: TokenSample, scores: FloatArray, hits: BoolArray, cap: float) -> BoolArray:
    """Return the ``hits`` below the cap's own cut, as in the published code.

    Where more than the share ``cap`` of the n response tokens are hits, the cut becomes the score at rank int(n * cap)
    (from 0, ascending). The comparison is strict, so of equal scores at that rank none is masked.
    """
    values = np.sort(scores[sample.response & ~np.isnan(scores)])
    if not len(values) or int(hits.sum()) <= cap * len(values):
        return hits
    cut = values[min(int(round(len(values) * cap, 9)), len(values) - 1)]
    below: BoolArray = hits & (scores < cut)
    return below


def spare_best(sample: TokenSample, scores: FloatArray, masked: BoolArray) -> BoolArray:
    """Remove the token with the highest score (the first of equals) from ``masked`` if it covers the whole pool."""
    pool = sample.in_loss
    if not pool.any() or not masked[pool].all():
        return masked
    positions = np.flatnonzero(pool)
    best = positions[np.argmax(np.nan_to_num(scores[positions], nan=-np.inf))]
    out = masked.copy()
    out[best] = False
    return out
