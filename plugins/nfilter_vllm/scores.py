"""Per-token losses of given tokens, from the log-probabilities of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nfilter import FloatArray, ModelError, TokenSample
from nfilter_vllm.engine import Engine, RefusedError


def score(
    engine: Engine, samples: Sequence[TokenSample], context: int, adapter: Any = None
) -> list[FloatArray]:
    """Return one float32 array [T] per sample: -log p(token | tokens before it), natural log.

    NaN at position 0 and outside the response. vLLM generates at least one token, so a sample has at most ``context - 1``.

    Raises:
        ModelError: if a sample is longer, or vLLM does not return the log-probability of each of its tokens.
    """
    from vllm import SamplingParams

    losses = [np.full(len(sample.ids), np.nan, dtype=np.float32) for sample in samples]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
    )
    running: dict[str, int] = {}
    try:
        for number, sample in enumerate(samples):
            size = _size(sample)
            if size == 0:
                continue
            if size >= context:
                raise _too_long(sample, context)
            try:
                # vLLM reads no cached beginning for log-probabilities of a prompt. A salt keeps the order of samples without
                # influence on what others would read.
                salt = f"score {sample.id}"
                key = engine.add(sample.ids[:size].tolist(), params, adapter, salt)
            except RefusedError as error:
                raise ModelError(f"sample {sample.id!r}: vLLM refuses it: {error}") from error
            running[key] = number
        while running:
            for key, output in engine.wait(running):
                number = running.pop(key)
                sample = samples[number]
                losses[number][sample.predicted] = _losses(sample, output.prompt_logprobs)
    finally:
        engine.abort(running)
    return losses


def _size(sample: TokenSample) -> int:
    """The number of tokens up to the last predicted one."""
    places = np.flatnonzero(sample.predicted)
    return int(places[-1]) + 1 if len(places) else 0


def _losses(sample: TokenSample, found: Any) -> FloatArray:
    """The losses of a sample's predicted tokens. ``found`` has for each position the log-probabilities by token."""
    size, count = _size(sample), len(found or ())
    if count != size:
        raise ModelError(
            f"sample {sample.id!r}: vLLM returned log-probabilities for {count} of {size} tokens"
        )
    places = np.flatnonzero(sample.predicted).tolist()
    chances = [found[place][int(sample.ids[place])].logprob for place in places]
    losses = -np.minimum(np.asarray(chances, dtype=np.float64), 0.0)
    if not np.isfinite(losses).all():
        raise ModelError(
            f"sample {sample.id!r}: a loss is not finite; set dtype: float32 for this model, or check its weights"
        )
    return losses.astype(np.float32)


def _too_long(sample: TokenSample, context: int) -> ModelError:
    return ModelError(
        f"sample {sample.id!r} has {len(sample.ids)} tokens, and vLLM scores at most {context - 1} with the model's context of "
        f"{context}: set encode.max_length to {context - 1} or less"
    )
