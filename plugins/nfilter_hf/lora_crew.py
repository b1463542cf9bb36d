"""Who shares the work of one training: a process alone, or those of one launch (``nfilter_hf.lora_ranks``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from nfilter import FloatArray
from nfilter_hf.lora.data import LossNorm, MicroBatch, TrainRow

Stats: TypeAlias = "Mapping[str, Any]"
"""An online loss's statistics by name, each a tensor [n] in the order of the batches that they are of."""


class Crew(Protocol):
    """What a training asks of those that share it. Within a step every process asks the same, in the same order."""

    @property
    def size(self) -> int:
        """How many processes they are."""
        ...

    def budget(self, rows: Sequence[TrainRow], budget: int, norm: LossNorm) -> int:
        """Tokens of one forward pass: at most ``budget``, and so few that there is a pass for everybody."""
        ...

    def share(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """Those of a step's batches that this process runs, in their order."""
        ...

    def statistics(
        self,
        collect: Callable[[Sequence[MicroBatch]], Stats | None],
        batches: Sequence[MicroBatch],
    ) -> Stats | None:
        """The statistics of all ``batches``, of which ``collect`` makes this process's share.

        None where some share is not finite. Raises torch.OutOfMemoryError where memory ran out anywhere.
        """
        ...

    def weights(self, weigh: Callable[[], FloatArray], n: int) -> FloatArray:
        """The weights [n] that ``weigh`` gives, called by one process for all."""
        ...

    def settle(self, loss: float | None) -> float | None:
        """The sum of all shares' losses; None where ``loss`` is None, out of memory, for anybody."""
        ...

    def start(self, job: Mapping[str, Any], rows: Sequence[TrainRow]) -> None:
        """Tell the other processes what is trained. This and what follows is the first process's to call."""
        ...

    def begin(self, step: int, parameters: Sequence[Any]) -> None:
        """Give the adapter's values out for optimiser step ``step``."""
        ...

    def collect(self, parameters: Sequence[Any]) -> None:
        """Add the other shares' gradients to those of ``parameters``."""
        ...

    def end(self) -> None:
        """Say that this training has no more steps."""
        ...


class Alone:
    """One process, which does everything itself."""

    size = 1

    def budget(self, rows: Sequence[TrainRow], budget: int, norm: LossNorm) -> int:
        """As it is."""
        return budget

    def share(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """All of them."""
        return list(batches)

    def statistics(
        self,
        collect: Callable[[Sequence[MicroBatch]], Stats | None],
        batches: Sequence[MicroBatch],
    ) -> Stats | None:
        """Those of all batches."""
        return collect(batches)

    def weights(self, weigh: Callable[[], FloatArray], n: int) -> FloatArray:
        """As given."""
        return weigh()

    def settle(self, loss: float | None) -> float | None:
        """As it is."""
        return loss

    def start(self, job: Mapping[str, Any], rows: Sequence[TrainRow]) -> None:
        """Nobody has to be told."""

    def begin(self, step: int, parameters: Sequence[Any]) -> None:
        """Nobody has to be told."""

    def collect(self, parameters: Sequence[Any]) -> None:
        """The gradients are all here."""

    def end(self) -> None:
        """Nobody has to be told."""
