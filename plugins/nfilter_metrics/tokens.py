"""How well token stages tell noise from signal, where it is known which tokens are noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from nfilter import JSON, BoolArray, FloatArray, JudgedTokens, TokenMetricInput
from nfilter_metrics.figures import Counts, ratio, roc_auc


class TokenNoise:
    """Masked against noise, over the tokens that are known to be one or the other.

    ``noise_kept`` is the share of noise tokens that still have a weight, ``signal_dropped`` the share of signal tokens that
    have none: the two errors of a mask. ``precision``, ``recall`` and ``f1`` are those of the masked tokens as a guess
    of what is noise; a soft weight above 0 counts as kept. ``roc_auc`` is by score: that a noise token has a lower
    score than a signal token, with no threshold in it, over the tokens that have that score.
    """

    name: ClassVar[str] = "token_noise"

    def compute_tokens(self, data: TokenMetricInput) -> Mapping[str, JSON]:
        """The figures named above; ``by_kind`` has the recall of every kind of noise."""
        if not data.judged:
            return {}
        noise = _joined([_noise(item) for item in data.judged])
        masked = _joined([item.sample.weights[item.known] == 0 for item in data.judged])
        counts = Counts(
            tp=int((noise & masked).sum()),
            fp=int((~noise & masked).sum()),
            fn=int((noise & ~masked).sum()),
            tn=int((~noise & ~masked).sum()),
        )
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
            "by_kind": {kind: _recall(data.judged, kind) for kind in kinds},
            "roc_auc": {
                name: roc_auc((~noise).tolist(), scores)
                for name, (noise, scores) in _scored(data.judged).items()
            },
        }


def _noise(item: JudgedTokens) -> BoolArray:
    out = np.zeros_like(item.known)
    for hits in item.noise.values():
        out |= hits
    return out[item.known]


def _joined(parts: Sequence[BoolArray]) -> BoolArray:
    joined: BoolArray = np.concatenate(parts)
    return joined


def _recall(judged: Sequence[JudgedTokens], kind: str) -> JSON:
    masked = total = 0
    for item in judged:
        hits = item.noise.get(kind)
        if hits is not None:
            total += int(hits.sum())
            masked += int((item.sample.weights[hits] == 0).sum())
    return {"tokens": total, "recall": ratio(masked, total)}


def _scored(judged: Sequence[JudgedTokens]) -> dict[str, tuple[BoolArray, list[float]]]:
    names = sorted({name for item in judged for name in item.sample.scores})
    out: dict[str, tuple[BoolArray, list[float]]] = {}
    for name in names:
        having = [item for item in judged if name in item.sample.scores]
        noise = _joined([_noise(item) for item in having])
        scores: FloatArray = np.concatenate(
            [item.sample.scores[name][item.known] for item in having]
        )
        there = np.isfinite(scores)
        out[name] = noise[there], scores[there].tolist()
    return out
