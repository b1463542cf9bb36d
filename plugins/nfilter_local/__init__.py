"""The executor `local`: the ranks of a run as processes of this machine."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import ClassVar, Final

from pydantic import Field

from nfilter import Job, RankEnd, StageConfig, hookimpl, run_rank

_PATIENCE: Final = 10.0  # seconds that a process has to end after an interrupt
_THREADS: Final = "OMP_NUM_THREADS"
_DEVICES: Final = "CUDA_VISIBLE_DEVICES"


class LocalConfig(StageConfig):
    """Settings of ``local``."""

    workers: int = Field(default=1, ge=1, description="Processes that share the chunks of stages.")
    gpus: int = Field(
        default=0,
        ge=0,
        description="GPUs of each process, in their order; 0: all processes see all GPUs.",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="How often a process that was killed is started again, at most.",
    )


class Local:
    """Starts the processes of a run on this machine. One worker is this process itself.

    Each process computes with its share of the processor cores, unless OMP_NUM_THREADS is set.
    """

    name: ClassVar[str] = "local"
    Config: ClassVar[type[StageConfig]] = LocalConfig

    @classmethod
    def workers(cls, config: LocalConfig) -> int:
        """Return the number of ranks."""
        return config.workers

    @classmethod
    def problems(cls, config: LocalConfig) -> Iterable[str]:
        """Yield nothing: nothing can be missing."""
        return ()

    def __init__(self, config: LocalConfig) -> None:
        self._config = config
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def run(self, job: Job) -> Iterator[RankEnd]:
        """Yield how each rank ended."""
        if job.world == 1:
            yield RankEnd.of(run_rank(job.values(), 0))
            return
        ends: queue.SimpleQueue[RankEnd] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=lambda rank=rank: ends.put(self._rank(job, rank)))
            for rank in range(job.world)
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                yield ends.get()
        finally:
            self._stop()
            for thread in threads:
                thread.join()

    def _rank(self, job: Job, rank: int) -> RankEnd:
        """Run a rank to its end, in one process after another while they are killed."""
        text = json.dumps({"job": job.values(), "rank": rank})
        code = 0
        for _ in range(self._config.restarts + 1):
            read, write = os.pipe()
            with os.fdopen(read, encoding="utf-8") as ends:
                try:
                    process = self._start(rank, job.world, write)
                finally:
                    os.close(write)
                if process is None:
                    break
                with suppress(BrokenPipeError):
                    process.communicate(text)
                said = ends.read()
            if said:
                return RankEnd.of(json.loads(said))
            code = process.returncode
        return RankEnd(rank, "StoreError", _lost(code, self._config.restarts + 1))

    def _start(self, rank: int, world: int, write: int) -> subprocess.Popen[str] | None:
        """Start the process of a rank, which writes its end to ``write``; None if the run is being stopped."""
        own = {_THREADS: str(max(1, (os.cpu_count() or 1) // world)), **os.environ}
        if self._config.gpus:
            own[_DEVICES] = ",".join(self._devices(rank))
        with self._lock:
            if self._stopping.is_set():
                return None
            process = subprocess.Popen(  # noqa: S603 - this interpreter, and no words of a recipe
                [sys.executable, "-m", "nfilter_local", str(write)],
                stdin=subprocess.PIPE, text=True, pass_fds=(write,), env=own,
                start_new_session=True,
            )  # fmt: skip
            self._running[rank] = process
        return process

    def _devices(self, rank: int) -> list[str]:
        """Return the GPUs of a rank, of those that this process sees."""
        first, past = rank * self._config.gpus, (rank + 1) * self._config.gpus
        seen = os.environ.get(_DEVICES)
        every = seen.split(",") if seen else [str(number) for number in range(past)]
        return every[first:past]

    def _stop(self) -> None:
        with self._lock:
            self._stopping.set()
            running = [each for each in self._running.values() if each.poll() is None]
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _lost(code: int, times: int) -> str:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return (
        f"its process ended {how}, {times} times; if memory is short, use fewer workers, for example: --set executor.workers=1. "
        "The same command resumes"
    )


@hookimpl
def nfilter_executors() -> Iterable[type]:
    """Register the executor."""
    return (Local,)
