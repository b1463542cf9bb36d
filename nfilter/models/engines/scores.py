"""Per-token losses of given tokens, from an engine's log-probabilities of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nfilter.api.errors import ModelError
from nfilter.api.types import FloatArray, TokenSample
from nfilter.models.engines.interface import EngineOutput, EngineScores, InferenceEngine


def score(
    label: str,
    engine: InferenceEngine,
    samples: Sequence[TokenSample],
    context: int,
    adapter: str | None = None,
) -> list[FloatArray]:
    """Return one float32 array [T] per sample: -log p(token | tokens before it), natural log.

    NaN at position 0 and outside the response. An engine generates one token beside, so a sample has at most ``context - 1``.
    ``label`` names the engine in messages, and ``adapter`` is the digest of a loaded adapter.

    Raises:
        ModelError: if a sample is longer, or the engine does not return the log-probability of each of its tokens.
    """
    losses = [np.full(len(sample.ids), np.nan, dtype=np.float32) for sample in samples]
    running: dict[str, int] = {}
    try:
        for number, sample in enumerate(samples):
            places = np.flatnonzero(sample.predicted)
            if not len(places):
                continue
            size = int(places[-1]) + 1
            if size >= context:
                raise _too_long(label, sample, context)
            # Some engines read a cached beginning where they should not; a salt keeps the order of samples without influence.
            call = EngineScores(sample.ids[:size].tolist(), int(places[0]), f"score {sample.id}")
            running[engine.add(call, adapter)] = number
        while running:
            for key, output in list(engine.wait(running)):
                number = running.pop(key)
                sample = samples[number]
                losses[number][sample.predicted] = _losses(label, sample, output)
    finally:
        engine.abort(running)
    return losses


def _losses(label: str, sample: TokenSample, output: EngineOutput) -> FloatArray:
    """The losses of a sample's predicted tokens, float32 [n]."""
    if output.finish == "refused":
        raise ModelError(f"sample {sample.id!r}: {label} refuses it: {output.message}")
    if output.finish == "failed":
        raise ModelError(f"sample {sample.id!r}: {label} ended the request: {output.message}")
    places = np.flatnonzero(sample.predicted)
    start, size = int(places[0]), int(places[-1]) + 1
    found = np.asarray(output.logprobs or (), dtype=np.float64)
    if len(found) != size - start:
        raise ModelError(
            f"sample {sample.id!r}: {label} returned log-probabilities for {len(found)} of {size - start} tokens"
        )
    losses = -np.minimum(found[places - start], 0.0)
    if not np.isfinite(losses).all():
        raise ModelError(
            f"sample {sample.id!r}: a loss is not finite; set dtype: float32 for this model, or check its weights"
        )
    return losses.astype(np.float32)


def _too_long(label: str, sample: TokenSample, context: int) -> ModelError:
    return ModelError(
        f"sample {sample.id!r} has {len(sample.ids)} tokens, and {label} scores at most {context - 1} with the model's context of "
        f"{context}: set encode.max_length to {context - 1} or less"
    )
