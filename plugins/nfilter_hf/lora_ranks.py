"""The processes of one launch (torchrun, accelerate) at one training.

The first process does the run; the others wait until it trains, run their share of each optimiser step's forward
passes and hand their gradients over. The first sums them, makes the update and gives the new weights out with the next
step, so that the others hold no state: no optimiser, no schedule, no checkpoint. Every coefficient of a step's losses
is absolute, so that the sum of the shares' gradients is the gradient of one process.

Nothing that travels is pickled: jobs are JSON in the store, all else are flat arrays.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from nfilter import FloatArray, ModelError
from nfilter_hf.batching import is_out_of_memory
from nfilter_hf.lora.data import LossNorm, MicroBatch, TrainRow
from nfilter_hf.lora_crew import Alone, Crew, Stats
from nfilter_hf.lora_parcels import blank, cut, in_order, packed, share_out, unpacked

if TYPE_CHECKING:
    from torch import Tensor

_MEET = timedelta(minutes=5)
_ANSWER = timedelta(minutes=30)
"""How long a process waits for others within a step. One that died is noticed at once, by its closed connection."""
_POLL = 0.1
_FAREWELL = 10.0
_FINE, _NOT_FINITE, _NO_MEMORY = 0, 1, 2

_RANKS: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


def crew() -> Crew:
    """Who shares a training that begins here: the launch that ``leading`` holds, else this process alone."""
    return _RANKS.get() or Alone()


@contextmanager
def leading() -> Iterator[None]:
    """Join the launch as its first process: trainings inside are shared, and the others go home at the end."""
    ranks = Ranks.join()
    token = _RANKS.set(ranks)
    try:
        yield
    except BaseException:
        ranks.close("failed")
        raise
    else:
        ranks.close("done")
    finally:
        _RANKS.reset(token)


class Ranks:
    """The processes of a launch as one of them, number ``rank`` of ``size``, sees them."""

    def __init__(self, rank: int, size: int, store: Any, *, nccl: bool = False) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._nccl = nccl
        self._jobs = 0

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other processes where the launcher's environment says.

        A process trains on the GPU of its number on this machine. Raises ModelError where they do not meet.
        """
        import torch
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        here, local = (int(os.environ.get(f"LOCAL_{name}", "0")) for name in ("RANK", "WORLD_SIZE"))
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus:
            torch.cuda.set_device(here % gpus)
        # NCCL wants a GPU for every process.
        nccl = bool(gpus) and gpus >= local and distributed.is_nccl_available()
        try:
            store, rank, size = next(iter(rendezvous("env://", timeout=_MEET)))
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if nccl else "gloo",
                store=PrefixStore("group", store),
                rank=rank,
                world_size=size,
                timeout=_ANSWER,
            )
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"the processes of this launch do not meet ({str(error).splitlines()[0]}): start them with "
                "torchrun --nproc-per-node N -m nfilter run RECIPE"
            ) from error
        return cls(rank, size, PrefixStore("nfilter", store), nccl=nccl)

    # --- a step, the same in every process -------------------------------------------------------------------

    def budget(self, rows: Sequence[TrainRow], budget: int, norm: LossNorm) -> int:
        """About a pass for each process; with a mean over passes, which their number changes, as it is."""
        if norm == "microbatch":
            return budget
        lengths = [len(row.inputs) for row in rows]
        return min(budget, max(*lengths, -(-sum(lengths) // self.size), 1))

    def share(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """This process's batches, their order kept."""
        owners = share_out([batch.inputs.size for batch in batches], self.size)
        return [batch for batch, owner in zip(batches, owners, strict=True) if owner == self.rank]

    def statistics(
        self,
        collect: Callable[[Sequence[MicroBatch]], Stats | None],
        batches: Sequence[MicroBatch],
    ) -> Stats | None:
        """Of all batches in the first process, of its own in another. They travel as float64."""
        import torch

        stats: Stats | None = None
        try:
            stats = collect(self.share(batches))
            outcome = _FINE if stats is not None else _NOT_FINITE
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            outcome = _NO_MEMORY
        outcome = self._worst(outcome)
        if outcome == _NO_MEMORY:
            raise torch.OutOfMemoryError("out of memory in a process of this launch")
        return None if outcome == _NOT_FINITE or stats is None else self._joined(stats, batches)

    def _joined(self, stats: Stats, batches: Sequence[MicroBatch]) -> Stats:
        import torch

        owners = share_out([batch.inputs.size for batch in batches], self.size)
        counts = [len(batch.labels) for batch in batches]
        sizes = [0] * self.size
        for count, owner in zip(counts, owners, strict=True):
            sizes[owner] += count
        for name, values in stats.items():
            if tuple(values.shape) != (sizes[self.rank],):
                raise ModelError(
                    f"an online loss's statistic {name!r} has shape {list(values.shape)}, not [{sizes[self.rank]}]"
                )
        tables = []
        if stats:
            tables.append(torch.stack([stats[name].cpu().double() for name in sorted(stats)]))
        if self.rank:
            for table in tables:
                with self._speaking() as distributed:
                    distributed.send(table, dst=0)
            return stats
        for rank in range(1, self.size):
            table = torch.empty((len(stats), sizes[rank]), dtype=torch.float64)
            if sizes[rank]:
                with self._speaking() as distributed:
                    distributed.recv(table, src=rank)
            tables.append(table)
        return in_order(stats, tables, counts, owners)

    def weights(self, weigh: Callable[[], FloatArray], n: int) -> FloatArray:
        """Weighed by the first process, given to the others."""
        import torch

        given = np.zeros(n, dtype=np.float32) if self.rank else np.array(weigh(), dtype=np.float32)
        self._broadcast(torch.from_numpy(given))
        return given

    def settle(self, loss: float | None) -> float | None:
        """The sum over all processes, or None for all of them."""
        import torch

        told = torch.tensor([loss or 0.0, float(loss is None)], dtype=torch.float64)
        with self._speaking() as distributed:
            distributed.all_reduce(told)
        return None if told[1] else float(told[0])

    def _worst(self, outcome: int) -> int:
        import torch

        told = torch.tensor([outcome])
        with self._speaking() as distributed:
            distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
        return int(told)

    def collect(self, parameters: Sequence[Any]) -> None:
        """Sum the gradients into those of the first process."""
        import torch

        flat = torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten().float()
                for p in parameters
            ]
        )
        with self._speaking() as distributed:
            distributed.reduce(flat, dst=0)
        if not self.rank:
            for parameter, part in zip(parameters, cut(flat, parameters), strict=True):
                parameter.grad = part.to(parameter.dtype)

    # --- the first process -----------------------------------------------------------------------------------

    def start(self, job: Mapping[str, Any], rows: Sequence[TrainRow]) -> None:
        """Post the job, and send the rows without their scores, which only the first process needs."""
        with self._speaking():
            self._store.set(f"job {self._jobs}", json.dumps({**job, "rows": len(rows)}).encode())
        self._jobs += 1
        for array in packed(rows):
            self._broadcast(array)

    def begin(self, step: int, parameters: Sequence[Any]) -> None:
        """Send the number of the step, and the weights to take it from."""
        import torch

        self._broadcast(torch.tensor([step]))
        self._broadcast(torch.cat([p.detach().flatten() for p in parameters]))

    def end(self) -> None:
        """Send that no step follows."""
        import torch

        self._broadcast(torch.tensor([-1]))

    def close(self, how: str) -> None:
        """Say that the run is over and leave; who still waits for an answer is cut off."""
        from torch import distributed

        with suppress(RuntimeError):
            self._store.set("over", how)
            # NCCL would wait for an answer that nobody gives; it ends with the process.
            if how == "done" or not self._nccl:
                distributed.destroy_process_group()
            # The store may live in this process: it stays until the others have read it.
            end = time.monotonic() + (_FAREWELL if how == "done" else _FAREWELL / 5)
            while time.monotonic() < end and not all(
                self._store.check([f"gone {rank}"]) for rank in range(1, self.size)
            ):
                time.sleep(_POLL)

    # --- the others ------------------------------------------------------------------------------------------

    def next_job(self) -> dict[str, Any] | None:
        """Wait for the next training; None when the run is over. Hours may pass, so the store is asked, not a peer."""
        key = f"job {self._jobs}"
        with self._speaking():
            while not self._store.check([key]):
                if self.over():
                    return None
                time.sleep(_POLL)
            job: dict[str, Any] = json.loads(self._store.get(key))
        self._jobs += 1
        return job

    def rows(self, count: int) -> list[TrainRow]:
        """The rows of a job, as the first process sends them."""
        import torch

        lengths = torch.empty((count, 2), dtype=torch.int64)
        self._broadcast(lengths)
        columns = blank(lengths)
        for column in columns:
            self._broadcast(column)
        return unpacked(lengths, columns)

    def next_step(self, parameters: Sequence[Any]) -> int | None:
        """Take the next step's number and weights; None where the training has no more steps."""
        import torch

        told = torch.zeros(1, dtype=torch.int64)
        self._broadcast(told)
        if told < 0:
            return None
        flat = torch.cat([p.detach().flatten() for p in parameters])
        self._broadcast(flat)
        with torch.no_grad():
            for parameter, part in zip(parameters, cut(flat, parameters), strict=True):
                parameter.copy_(part)
        return int(told)

    def over(self) -> bool:
        """Whether the first process said that the run is over, well or not."""
        with suppress(RuntimeError):
            return bool(self._store.check(["over"]))
        return False

    def leave(self, error: BaseException | None) -> None:
        """Go home, or say why this process cannot go on."""
        from torch import distributed

        with suppress(RuntimeError):
            if error is None:
                self._store.set(f"gone {self.rank}", b"1")
            else:
                self._store.set(f"failed {self.rank}", f"{type(error).__name__}: {error}".encode())
                self._store.set(f"gone {self.rank}", b"1")
            distributed.destroy_process_group()

    # --- speaking --------------------------------------------------------------------------------------------

    def _broadcast(self, values: Tensor) -> None:
        with self._speaking() as distributed:
            distributed.broadcast(values, src=0)

    @contextmanager
    def _speaking(self) -> Iterator[Any]:
        """torch.distributed; where another process is gone, a ModelError with what it left to say."""
        import torch
        from torch import distributed

        try:
            yield distributed
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(self._why(error)) from error

    def _why(self, error: Exception) -> str:
        again = "the same command goes on where it stopped"
        with suppress(RuntimeError):
            for rank in range(self.size):
                if self._store.check([f"failed {rank}"]):
                    said = self._store.get(f"failed {rank}").decode()
                    return f"process {rank} of {self.size} of this launch failed ({said}); {again}"
        who = "the first process" if self.rank else "another process"
        return f"{who} of this launch is gone without a word, killed perhaps ({str(error).splitlines()[0][:200]}); {again}"
