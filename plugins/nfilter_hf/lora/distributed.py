"""The processes of one launch (torchrun, accelerate launch) at one run.

The first process, rank 0, runs the recipe. The others wait for jobs in ``serve``: a training, for which they enter the
same function as rank 0, or requests and samples of which each process takes its share. Each job is one message from
rank 0; within a job all processes call the same methods in the same order.

accelerate joins the processes and sums their gradients. Messages travel over a gloo group, on the CPU, as bytes in the
safetensors format: JSON and arrays, never pickled objects.
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

Parcel: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor]]"
"""JSON values and tensors, each under its name."""
Handler: TypeAlias = "Callable[[dict[str, Any], dict[str, Tensor]], None]"

_STEP: Final = timedelta(minutes=30)
"""How long processes wait for one another where they meet and where gradients are summed."""
_JOB: Final = timedelta(days=30)
"""How long a process waits for a message. A process that dies closes its connections, which is noticed at once."""
_JSON: Final = "json"
_END: Final = "end"
_AGAIN: Final = "run the same command to resume"


class Launch:
    """The processes of one launch, as process ``rank`` of ``size`` sees them. A process alone is a launch of one."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.failed = False
        """Whether an error of this process alone ended the job; the others were told of it."""
        self._group = group

    @classmethod
    def join(cls) -> Launch:
        """Meet the other processes where the launcher's environment says; on GPUs, take the one of this process's number.

        Raises:
            ModelError: where the processes do not meet, or are more than the GPUs of this machine.
        """
        import torch
        from accelerate import PartialState
        from torch import distributed

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if gpus and here > gpus:
            raise ModelError(
                f"{here} processes were started on this machine, and it has {gpus} GPUs: start one for each with "
                f"torchrun --nproc-per-node {gpus} -m nfilter run RECIPE"
            )
        try:
            state = PartialState(cpu=not gpus, timeout=_STEP)
            group = distributed.new_group(backend="gloo", timeout=_JOB)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"the processes of this launch do not meet ({str(error).splitlines()[0]}): start them with "
                "torchrun --nproc-per-node N -m nfilter run RECIPE"
            ) from error
        return cls(state.process_index, state.num_processes, group)

    @property
    def leads(self) -> bool:
        """Whether this process runs the recipe: it alone reads and writes the run directory."""
        return self.rank == 0

    def tell(
        self, job: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Give the others a job; nothing where this process is alone. Rank 0 calls it."""
        if self.size > 1:
            self._broadcast(({**values, "job": job}, dict(tensors or {})), 0)

    def wait(self) -> Parcel | None:
        """The next job; None when the run is over. All but rank 0 call it."""
        try:
            return self._broadcast(None, 0)
        except _RunOverError:
            return None

    def share(self, message: Callable[[], Parcel]) -> Parcel:
        """What ``message`` gives in rank 0, in every process."""
        if self.size == 1:
            return message()
        return self._broadcast(message() if self.leads else None, 0)

    def together(self, work: Callable[[], Parcel]) -> list[Parcel]:
        """Run ``work`` in every process; what each gave, by rank.

        Raises:
            ModelError: where it failed in another process, or one is gone. A failure of this process is raised as it is.
            torch.OutOfMemoryError: in every process, where memory ran out in any.
        """
        if self.size == 1:
            return [work()]
        import torch

        failure: Exception | None = None
        values: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        try:
            values, tensors = work()
            told: dict[str, Any] = {"values": values}
        except Exception as error:  # noqa: BLE001 (raised again below, once the others know)
            # The error holds on to the frames of the pass, and they to its memory.
            if is_out_of_memory(error):
                told = {"memory": True}
            else:
                failure, told = error, {"error": f"{type(error).__name__}: {error}"}
        found = [
            self._broadcast((told, tensors) if rank == self.rank else None, rank)
            for rank in range(self.size)
        ]
        if failure is not None:
            self.failed = True
            raise failure
        for rank, (said, _) in enumerate(found):
            if "error" in said:
                raise ModelError(
                    f"process {rank} of {self.size} of this launch failed ({said['error']}); {_AGAIN}"
                )
        if any("memory" in said for said, _ in found):
            raise torch.OutOfMemoryError("out of memory in a process of this launch")
        return [(said["values"], sent) for said, sent in found]

    def sum_gradients(self, parameters: Sequence[Any]) -> None:
        """Add the gradients of all processes up, in every process. A parameter without one counts as 0.

        One sum at the end of a step, not DDP's within each backward pass: processes have different numbers of passes,
        and one may run out of memory in the middle of one, where the others would wait for it.
        """
        if self.size == 1:
            return
        import torch
        from accelerate import PartialState
        from accelerate.utils import reduce

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        with self._speaking():
            total = reduce(flat.to(PartialState().device), reduction="sum").to(flat.device)
        parts = torch.split(total, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view(parameter.shape).to(parameter.dtype)

    def close(self, *, send_home: bool) -> None:
        """Leave the launch; with ``send_home``, which rank 0 says, the others leave too."""
        from torch import distributed

        with suppress(RuntimeError, ModelError):
            if send_home and self.size > 1:
                self._broadcast(({"job": _END}, {}), 0)
        with suppress(RuntimeError):
            distributed.destroy_process_group()

    def _broadcast(self, message: Parcel | None, source: int) -> Parcel:
        """The message of process ``source``, in every process."""
        import torch

        data = b"" if message is None else _packed(*message)
        with self._speaking() as distributed:
            size = torch.tensor([len(data)])
            distributed.broadcast(size, source, group=self._group)
            flat = torch.empty(int(size), dtype=torch.uint8)
            if message is not None:
                flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            distributed.broadcast(flat, source, group=self._group)
        found = message if message is not None else _unpacked(flat)
        if source == 0 and self.rank and found[0].get("job") == _END:
            raise _RunOverError("the run ended in the first process")
        return found

    @contextmanager
    def _speaking(self) -> Iterator[Any]:
        """torch.distributed; a ModelError where another process is gone."""
        import torch
        from torch import distributed

        try:
            yield distributed
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            who = "the first process" if self.rank else "another process"
            raise ModelError(
                f"{who} of this launch is gone without a word, killed perhaps ({str(error).splitlines()[0][:200]}); {_AGAIN}"
            ) from error


class _RunOverError(ModelError):
    """Rank 0 sent the others home in the middle of a job: its run failed, and it said why."""


_LAUNCH: ContextVar[Launch] = ContextVar("launch", default=Launch())  # noqa: B039 (never changed)


def current() -> Launch:
    """The launch that this process leads or serves, else this process alone."""
    return _LAUNCH.get()


@contextmanager
def leading() -> Iterator[None]:
    """Join the launch as its first process: jobs inside are shared, and the others go home at the end."""
    launch = Launch.join()
    token = _LAUNCH.set(launch)
    try:
        yield
    finally:
        _LAUNCH.reset(token)
        launch.close(send_home=True)


def serve(handlers: Mapping[str, Handler]) -> None:
    """Join the launch as another process than the first, and do each job with its handler until the run is over.

    Raises ModelError where the first process is gone.
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
                # One of this process alone ends it. Any other the first process has too: it decides what follows.
                if launch.failed:
                    raise
    finally:
        _LAUNCH.reset(token)
        launch.close(send_home=False)


def _packed(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    import torch
    from safetensors.torch import save

    text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    here = {f"+{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save({_JSON: text, **here}))


def _unpacked(flat: Tensor) -> Parcel:
    from safetensors.torch import load

    found = load(flat.numpy().tobytes())
    values: dict[str, Any] = json.loads(found.pop(_JSON).numpy().tobytes())
    return values, {name.removeprefix("+"): tensor for name, tensor in found.items()}
