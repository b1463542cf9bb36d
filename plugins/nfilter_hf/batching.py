"""Batches by token budget, longest first; the budget is reduced when memory runs out."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|failed to allocate",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Budget:
    """The maximum number of tokens of a batch, including padding. It is halved permanently when memory runs out."""

    tokens: int

    def run(
        self,
        items: Sequence[Item],
        size: Callable[[Item], int],
        work: Callable[[Sequence[Item]], None],
        give_up: Callable[[Item], None],
    ) -> None:
        """Call ``work`` on all batches as ``each`` does; an item that is too large alone is passed to ``give_up``."""

        def worked(batch: Sequence[Item]) -> bool:
            work(batch)
            return True

        for batch, done in self.each(items, size, worked):
            if done is None:
                give_up(batch[0])

    def each(
        self,
        items: Sequence[Item],
        size: Callable[[Item], int],
        work: Callable[[Sequence[Item]], Result],
    ) -> Iterator[tuple[Sequence[Item], Result | None]]:
        """Yield batches of ``items`` with their results, sorted by ``size`` (tokens of one row), longest first.

        A batch that runs out of memory is halved and repeated; the result of an item that is too large alone is None. ``work``
        must have no side effects before it succeeds, because its batch may be repeated.
        """
        waiting = sorted(items, key=size, reverse=True)
        while waiting:
            longest = max(1, size(waiting[0]))
            count = max(1, self.tokens // longest)
            batch = waiting[:count]
            done, result = _attempt(work, batch)
            if done:
                waiting = waiting[count:]
                yield batch, result
            elif len(batch) == 1:
                waiting = waiting[1:]
                yield batch, None
            else:
                self.tokens = max(1, len(batch) // 2) * longest


def _attempt(
    work: Callable[[Sequence[Item]], Result], batch: Sequence[Item]
) -> tuple[bool, Result | None]:
    try:
        return True, work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Only after the handler is the memory of the failed pass unreferenced.
    release()
    return False, None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` reports that a device or the host ran out of memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))


def release() -> None:
    """Return cached memory to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
