"""Metric ``token_noise``: masked tokens compared with known noise tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from nfilter import JSON, BoolArray, FloatArray, JudgedTokens, TokenMetricInput
from nfilter_metrics.statistics import MISSING, Counts, ratio, roc_auc, scikit_learn


class TokenNoise:
    """Classification metrics of the token mask; a noise token is a positive, a token with weight 0 is flagged.

    Only tokens known to be noise or signal count; a weight above 0 counts as kept. ``noise_kept``: share of noise
    tokens that are kept. ``signal_dropped``: share of signal tokens that are masked. ``roc_auc``: per score, the
    probability that a noise token scores below a signal token, over tokens that have the score.
    """

    name: ClassVar[str] = "token_noise"

    def compute_tokens(self, data: TokenMetricInput) -> Mapping[str, JSON]:
        """Return the figures; ``by_kind`` contains the recall per kind of noise."""
        if not data.judged:
            return {}
        noise = _concatenate([_noise_mask(item) for item in data.judged])
        masked = _concatenate([item.sample.weights[item.known] == 0 for item in data.judged])
        counts = Counts(
            tp=int((noise & masked).sum()),
            fp=int((~noise & masked).sum()),
            fn=int((noise & ~masked).sum()),
            tn=int((~noise & ~masked).sum()),
        )
        if scikit_learn() is None:
            data.warn(f"roc_auc is not computed: token_noise {MISSING}")
        kinds = sorted({kind for item in data.judged for kind in item.noise})
        return {
            "tokens": len(noise),
            "samples": len(data.judged),
            "noise": ratio(counts.tp + counts.fn, len(noise)),
            "masked": ratio(counts.tp + counts.fp, len(noise)),
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f1,
            "noise_kept": ratio(counts.fn, counts.tp + counts.fn),
            "signal_dropped": ratio(counts.fp, counts.fp + counts.tn),
            "by_kind": {kind: _recall_of_kind(data.judged, kind) for kind in kinds},
            "roc_auc": {
                name: roc_auc((~noise).tolist(), scores)
                for name, (noise, scores) in _noise_and_scores(data.judged).items()
            },
        }


def _noise_mask(item: JudgedTokens) -> BoolArray:
    out = np.zeros_like(item.known)
    for hits in item.noise.values():
        out |= hits
    return out[item.known]


def _concatenate(parts: Sequence[BoolArray]) -> BoolArray:
    joined: BoolArray = np.concatenate(parts)
    return joined


def _recall_of_kind(judged: Sequence[JudgedTokens], kind: str) -> JSON:
    masked = total = 0
    for item in judged:
        hits = item.noise.get(kind)
        if hits is not None:
            total += int(hits.sum())
            masked += int((item.sample.weights[hits] == 0).sum())
    return {"tokens": total, "recall": ratio(masked, total)}


def _noise_and_scores(judged: Sequence[JudgedTokens]) -> dict[str, tuple[BoolArray, list[float]]]:
    names = sorted({name for item in judged for name in item.sample.scores})
    out: dict[str, tuple[BoolArray, list[float]]] = {}
    for name in names:
        scored = [item for item in judged if name in item.sample.scores]
        noise = _concatenate([_noise_mask(item) for item in scored])
        scores: FloatArray = np.concatenate(
            [item.sample.scores[name][item.known] for item in scored]
        )
        finite = np.isfinite(scores)
        out[name] = noise[finite], scores[finite].tolist()
    return out
