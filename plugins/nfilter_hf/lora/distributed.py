"""The processes of one launch (torchrun, accelerate launch) in one run.

The first process, rank 0, runs the recipe. The others wait for jobs in ``serve``: a training, in which they call the
same function as rank 0, or requests and samples, of which each process handles a part. Each job is one message from
rank 0; within a job all processes call the same methods in the same order.

accelerate connects the processes and sums their gradients. Messages are sent over a gloo group, on the CPU, as bytes
in the safetensors format: JSON and arrays, never pickled objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nfilter import ModelError
from nfilter_hf.batching import is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

Payload: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor]]"
"""JSON values and tensors, by name."""
Handler: TypeAlias = "Callable[[dict[str, Any], dict[str, Tensor]], None]"

_STEP: Final = timedelta(minutes=30)
"""Timeout when processes connect and when gradients are summed."""
_JOB: Final = timedelta(days=30)
"""Timeout for a message. The end of another process closes its connections, which is detected at once."""
_JSON: Final = "json"
_END: Final = "end"
_RERUN: Final = "run the same command to resume"


class Launch:
    """The processes of one launch, in process ``rank`` of ``size``. A single process is a launch of size 1."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.failed = False
        """Whether an error in this process ended the job; the other processes received it."""
        self._group = group

    @classmethod
    def join(cls) -> Launch:
        """Meet the other processes where the launcher's environment says; on GPUs, take the one of this process's number.

        Raises:
            ModelError: the processes cannot connect, or outnumber the GPUs of this machine.
        """
        import torch
        from accelerate import PartialState
        from torch import distributed

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if gpus and here > gpus:
            raise ModelError(
                f"{here} processes were started on this machine, which has {gpus} GPUs: start one per GPU with "
                f"torchrun --nproc-per-node {gpus} -m nfilter run RECIPE"
            )
        try:
            state = PartialState(cpu=not gpus, timeout=_STEP)
            group = distributed.new_group(backend="gloo", timeout=_JOB)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"the processes of this launch cannot connect ({str(error).splitlines()[0]}): start them with "
                "torchrun --nproc-per-node N -m nfilter run RECIPE"
            ) from error
        return cls(state.process_index, state.num_processes, group)

    @property
    def leads(self) -> bool:
        """Whether this process runs the recipe; only it reads and writes the run directory."""
        return self.rank == 0

    def send_job(
        self, job: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Send the other processes a job, if there are any. Only rank 0 calls it."""
        if self.size > 1:
            self._broadcast(({**values, "job": job}, dict(tensors or {})), 0)

    def wait(self) -> Payload | None:
        """Return the next job; None at the end of the run. All processes but rank 0 call it."""
        try:
            return self._broadcast(None, 0)
        except _RunOverError:
            return None

    def share(self, message: Callable[[], Payload]) -> Payload:
        """Return the result of ``message`` in rank 0, in every process."""
        if self.size == 1:
            return message()
        return self._broadcast(message() if self.leads else None, 0)

    def together(self, work: Callable[[], Payload]) -> list[Payload]:
        """Run ``work`` in every process; return their results, by rank.

        Raises:
            ModelError: it failed in another process, or another process ended. An error in this process is re-raised.
            torch.OutOfMemoryError: in every process, if any process ran out of memory.
        """
        if self.size == 1:
            return [work()]
        import torch

        failure: Exception | None = None
        values: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        try:
            values, tensors = work()
            outcome: dict[str, Any] = {"values": values}
        except Exception as error:  # noqa: BLE001 (raised again below, after the others received it)
            # The error is not kept: its frames would hold the memory of the pass.
            if is_out_of_memory(error):
                outcome = {"memory": True}
            else:
                failure, outcome = error, {"error": f"{type(error).__name__}: {error}"}
        received = [
            self._broadcast((outcome, tensors) if rank == self.rank else None, rank)
            for rank in range(self.size)
        ]
        if failure is not None:
            self.failed = True
            raise failure
        for rank, (result, _) in enumerate(received):
            if "error" in result:
                raise ModelError(
                    f"process {rank} of {self.size} of this launch failed ({result['error']}); {_RERUN}"
                )
        if any("memory" in result for result, _ in received):
            raise torch.OutOfMemoryError("out of memory in a process of this launch")
        return [(result["values"], sent) for result, sent in received]

    def sum_gradients(self, parameters: Sequence[Any]) -> None:
        """Replace the gradients by their sum over all processes. A missing gradient counts as 0.

        They are summed once per step, not within each backward pass as in DDP: processes have different numbers of
        passes, and one may run out of memory during a pass while the others wait for it.
        """
        if self.size == 1:
            return
        import torch
        from accelerate import PartialState
        from accelerate.utils import reduce

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        with self._connection():
            total = reduce(flat.to(PartialState().device), reduction="sum").to(flat.device)
        parts = torch.split(total, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view(parameter.shape).to(parameter.dtype)

    def close(self, *, end_run: bool) -> None:
        """Leave the launch; with ``end_run``, in rank 0, the other processes leave too."""
        from torch import distributed

        with suppress(RuntimeError, ModelError):
            if end_run and self.size > 1:
                self._broadcast(({"job": _END}, {}), 0)
        with suppress(RuntimeError):
            distributed.destroy_process_group()

    def _broadcast(self, message: Payload | None, source: int) -> Payload:
        """Return the message of process ``source``, in every process."""
        import torch

        data = b"" if message is None else _packed(*message)
        with self._connection() as distributed:
            size = torch.tensor([len(data)])
            distributed.broadcast(size, source, group=self._group)
            flat = torch.empty(int(size), dtype=torch.uint8)
            if message is not None:
                flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            distributed.broadcast(flat, source, group=self._group)
        payload = message if message is not None else _unpacked(flat)
        if source == 0 and self.rank and payload[0].get("job") == _END:
            raise _RunOverError("the run ended in the first process")
        return payload

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Yield torch.distributed; an error of a connection is a ModelError."""
        import torch
        from torch import distributed

        try:
            yield distributed
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            who = "the first process" if self.rank else "another process"
            raise ModelError(
                f"{who} of this launch ended without an error message, possibly killed ({str(error).splitlines()[0][:200]}); {_RERUN}"
            ) from error


class _RunOverError(ModelError):
    """Rank 0 ended the run during a job: its run failed, and rank 0 reports the error."""


_LAUNCH: ContextVar[Launch] = ContextVar("launch", default=Launch())  # noqa: B039 (never changed)


def current() -> Launch:
    """Return the launch of this process; outside a launch, one of size 1."""
    return _LAUNCH.get()


@contextmanager
def leading() -> Iterator[None]:
    """Join the launch as its first process: jobs in the block are shared, and its end ends the other processes."""
    launch = Launch.join()
    token = _LAUNCH.set(launch)
    try:
        yield
    finally:
        _LAUNCH.reset(token)
        launch.close(end_run=True)


def serve(handlers: Mapping[str, Handler]) -> None:
    """Join the launch in a process other than the first, and run each job with its handler until the end of the run.

    Raises:
        ModelError: the first process ended without ending the run.
    """
    launch = Launch.join()
    token = _LAUNCH.set(launch)
    try:
        while (message := launch.wait()) is not None:
            values, tensors = message
            try:
                handlers[values["job"]](values, tensors)
            except _RunOverError:
                return
            except ModelError:
                # An error in this process ends it. All others reach the first process too, which decides what follows.
                if launch.failed:
                    raise
    finally:
        _LAUNCH.reset(token)
        launch.close(end_run=False)


def _packed(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    import torch
    from safetensors.torch import save

    text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    here = {f"+{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save({_JSON: text, **here}))


def _unpacked(flat: Tensor) -> Payload:
    from safetensors.torch import load

    found = load(flat.numpy().tobytes())
    values: dict[str, Any] = json.loads(found.pop(_JSON).numpy().tobytes())
    return values, {name.removeprefix("+"): tensor for name, tensor in found.items()}
