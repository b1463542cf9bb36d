"""Per-token scores under a model: what this run computed before is read, the rest is computed and stored as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from nfilter.api.errors import ContractError
from nfilter.api.types import FloatArray, TokenSample
from nfilter.store.losses import ScoreBook

_GROUP = 32  # samples between writes
_SECONDS = 1.0  # between writes, at most

Compute = Callable[[Sequence[TokenSample]], Iterator[FloatArray]]


def streamed(
    book: ScoreBook, samples: Sequence[TokenSample], compute: Compute, who: str
) -> list[FloatArray]:
    """Return float32 [T] per sample; ``compute`` yields what ``book`` lacks, equal samples once.

    What it yields is stored every 32 samples and every second: a run that is killed computes little again.

    Raises:
        ContractError: when ``compute`` yields another number of arrays, or an array of another length.
    """
    scores = book.find(samples)  # also finds out what is damaged
    if todo := book.lacking(samples):
        _store(book, todo, compute, who)
        scores = book.find(samples)
    return [values for values in scores if values is not None]


def _store(book: ScoreBook, todo: Sequence[TokenSample], compute: Compute, who: str) -> None:
    fresh: list[FloatArray] = []
    stored, last = 0, time.monotonic()
    stream = compute(todo)
    try:
        for values in stream:
            fresh.append(_checked(values, todo, len(fresh), who))
            if len(fresh) - stored >= _GROUP or time.monotonic() - last > _SECONDS:
                book.put(todo[stored : len(fresh)], fresh[stored:])
                stored, last = len(fresh), time.monotonic()
        if len(fresh) < len(todo):
            raise ContractError(
                f"{who}: {len(fresh)} arrays for {len(todo)} samples; yield one per sample"
            )
    finally:
        if isinstance(stream, Generator):
            stream.close()
        # What came before an error was computed.
        book.put(todo[stored : len(fresh)], fresh[stored:])


def _checked(values: FloatArray, todo: Sequence[TokenSample], place: int, who: str) -> FloatArray:
    if place == len(todo):
        raise ContractError(f"{who}: more arrays than the {place} samples; yield one per sample")
    array = np.asarray(values, dtype=np.float32)
    if array.shape != (size := (len(todo[place].ids),)):
        raise ContractError(
            f"{who}: the scores of sample {todo[place].id!r} have shape {array.shape}, not {size}; yield one number per token"
        )
    return array
