"""Compute the metrics over tokens of responses whose noise is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfilter.api.metrics import JudgedTokens, TokenMetric, TokenMetricInput
from nfilter.api.types import BoolArray, NoiseSpan, Sample, TokenSample
from nfilter.metrics.samples import figures_of
from nfilter.registry.loading import Plugins
from nfilter.store.artefacts import Artefact
from nfilter.store.tokens import read_tokens
from nfilter.store.truth import noise_of


def judge_tokens(
    plugins: Plugins,
    directory: Path,
    source: Artefact[Sample],
    last: Artefact[Sample],
    seed: int,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Return the figures of every metric over a run's tokens by name; empty if no noise is known."""
    noise = noise_of(source)
    if not noise:
        return {}
    tokens, reasons = read_tokens(directory / "tokens")
    final = {sample.id: sample for sample in last.samples() if sample.id in noise}
    same = {
        sample.id: final[sample.id]
        for sample in source.samples()
        if sample.id in final and final[sample.id].response == sample.response
    }
    judged = [
        judge_sample(sample, same[sample.id], noise[sample.id])
        for sample in tokens
        if sample.id in same
    ]
    data = TokenMetricInput([item for item in judged if item.known.any()], reasons, seed, warn)
    return figures_of(plugins, TokenMetric, "compute_tokens", data, warn)


def judge_sample(tokens: TokenSample, sample: Sample, noise: Sequence[NoiseSpan]) -> JudgedTokens:
    """Mark the noise tokens of the last response: those with more than half of their characters in a noise span.

    If the rendered text does not contain the response unchanged, no token is known.
    """
    last = len(sample.messages) - 1
    own = tokens.response & (tokens.turn == last)
    at = -1
    if own.any():
        at = tokens.text.find(sample.response, int(tokens.spans[own][0, 0]))
    if at < 0:
        return JudgedTokens(tokens, np.zeros_like(own), {})
    by_kind: dict[str, BoolArray] = {}
    sizes = np.maximum(tokens.spans[:, 1] - tokens.spans[:, 0], 1)
    for span in noise:
        shared = np.minimum(tokens.spans[:, 1], at + span.end) - np.maximum(
            tokens.spans[:, 0], at + span.start
        )
        hit = own & (2 * shared > sizes)
        by_kind[span.kind] = by_kind.get(span.kind, np.zeros_like(own)) | hit
    return JudgedTokens(tokens, own, by_kind)
