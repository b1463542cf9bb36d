"""Per-token scores of a model: cached scores are read, the others computed and stored as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from nfilter.api.errors import ContractError
from nfilter.api.types import FloatArray, TokenSample
from nfilter.store.losses import ScoreCache

_GROUP = 32  # samples between writes
_SECONDS = 1.0  # between writes, at most

Compute = Callable[[Sequence[TokenSample]], Iterator[FloatArray]]


def streamed(
    cache: ScoreCache, samples: Sequence[TokenSample], compute: Compute, who: str
) -> list[FloatArray]:
    """Return float32 [T] per sample; ``compute`` yields the scores that ``cache`` lacks, once for equal samples.

    They are stored every 32 samples and every second, so that a killed run repeats little.

    Raises:
        ContractError: if ``compute`` yields another number of arrays, or an array of another length.
    """
    scores = cache.find(samples)  # also detects damaged entries
    if todo := cache.lacking(samples):
        _store(cache, todo, compute, who)
        scores = cache.find(samples)
    return [values for values in scores if values is not None]


def _store(cache: ScoreCache, todo: Sequence[TokenSample], compute: Compute, who: str) -> None:
    fresh: list[FloatArray] = []
    stored, last = 0, time.monotonic()
    stream = compute(todo)
    try:
        for values in stream:
            fresh.append(_checked(values, todo, len(fresh), who))
            if len(fresh) - stored >= _GROUP or time.monotonic() - last > _SECONDS:
                cache.put(todo[stored : len(fresh)], fresh[stored:])
                stored, last = len(fresh), time.monotonic()
        if len(fresh) < len(todo):
            raise ContractError(
                f"{who}: {len(fresh)} arrays for {len(todo)} samples; yield one per sample"
            )
    finally:
        if isinstance(stream, Generator):
            stream.close()
        # Scores that came before an error are valid.
        cache.put(todo[stored : len(fresh)], fresh[stored:])


def _checked(values: FloatArray, todo: Sequence[TokenSample], index: int, who: str) -> FloatArray:
    if index == len(todo):
        raise ContractError(f"{who}: more arrays than the {index} samples; yield one per sample")
    array = np.asarray(values, dtype=np.float32)
    if array.shape != (size := (len(todo[index].ids),)):
        raise ContractError(
            f"{who}: the scores of sample {todo[index].id!r} have shape {array.shape}, not {size}; yield one number per token"
        )
    return array
