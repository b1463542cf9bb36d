"""Ranks as actors of Ray: one per worker, started again by Ray where a process or machine is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from pydantic import Field

from nfilter import Job, ModelError, RankEnd, StageConfig, StoreError, missing_package
from nfilter_ray.rank import RankActor


class RayConfig(StageConfig):
    """Settings of ``ray``."""

    workers: int = Field(default=2, ge=1, description="Actors that share the chunks of stages.")
    address: str | None = Field(
        default=None,
        description="The cluster: auto, or host:port; null starts Ray on this machine for the run.",
    )
    cpus: float = Field(default=1, ge=0, description="Processor cores that Ray reserves per actor.")
    gpus: float = Field(
        default=0, ge=0, description="GPUs that Ray reserves per actor; it sees no others."
    )
    restarts: int = Field(
        default=20, ge=0, description="How often Ray starts a lost actor again, at most."
    )


class RayExecutor:
    """Starts each rank of a run as an actor of Ray, which starts it again if its process or machine is lost.

    The run directory is on a file system that all machines share, and nfilter is installed on all of them.
    """

    name: ClassVar[str] = "ray"
    Config: ClassVar[type[StageConfig]] = RayConfig

    @classmethod
    def workers(cls, config: RayConfig) -> int:
        """Return the number of ranks."""
        return config.workers

    @classmethod
    def problems(cls, config: RayConfig) -> Iterable[str]:
        """Yield that Ray is missing, where it is."""
        if find_spec("ray") is None:
            yield f"executor 'ray' {missing_package('ray', 'nfilter[ray]')}"

    def __init__(self, config: RayConfig) -> None:
        self._config = config

    def run(self, job: Job) -> Iterator[RankEnd]:
        """Yield how each rank ended.

        Raises:
            ModelError: if Ray is not installed.
            StoreError: if there is no cluster at the address, or it is too small.
        """
        for problem in self.problems(self._config):
            raise ModelError(problem)
        ray: Any = import_module("ray")
        own = not ray.is_initialized()
        if own:
            self._connect(ray)
        try:
            self._must_fit(ray)
            yield from self._ends(ray, job)
        finally:
            if own:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        # A Ray that is started here reports its usage to nobody, unless the user has asked for it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=self._config.address or "local",
                include_dashboard=None if self._config.address else False,
                configure_logging=False,
                log_to_driver=True,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StoreError(
                f"executor 'ray': no cluster at {self._config.address or 'this machine'}: {error}; start one with "
                "`ray start --head`, or write address: null"
            ) from error

    def _must_fit(self, ray: Any) -> None:
        """Refuse more actors than a cluster has room for that cannot grow: a rank would wait for ever."""
        if self._config.address is not None:
            return
        has = ray.cluster_resources()
        for name, key in (("cpus", "CPU"), ("gpus", "GPU")):
            each = getattr(self._config, name)
            if each * self._config.workers > has.get(key, 0):
                raise StoreError(
                    f"executor 'ray': {self._config.workers} workers with {each:g} {name} each do not fit into the "
                    f"{has.get(key, 0):g} {name} of this machine; write fewer workers, or less of {name}: "
                    f"--set executor.{name}={has.get(key, 0) / self._config.workers:g}"
                )

    def _ends(self, ray: Any, job: Job) -> Iterator[RankEnd]:
        config = self._config
        # Ray makes the call again when it has started the actor again.
        actor = ray.remote(RankActor).options(
            num_cpus=config.cpus,
            num_gpus=config.gpus,
            max_restarts=config.restarts,
            max_task_retries=config.restarts,
        )
        actors = [actor.remote() for _ in range(job.world)]
        calls = {each.run.remote(job.values(), rank): rank for rank, each in enumerate(actors)}
        try:
            while calls:
                (done, *_), _ = ray.wait(list(calls), num_returns=1)
                yield self._end(ray, done, calls.pop(done))
        finally:
            for each in actors:
                ray.kill(each, no_restart=True)

    def _end(self, ray: Any, call: Any, rank: int) -> RankEnd:
        try:
            return RankEnd.of(ray.get(call))
        except ray.exceptions.RayActorError as error:
            lost = " ".join(str(error).split())[:500]
            return RankEnd(
                rank,
                "StoreError",
                f"its actor was lost more than {self._config.restarts} times: {lost}; the same command resumes",
            )
        except ray.exceptions.RayTaskError as error:
            return RankEnd(rank, "RayTaskError", str(error)[:2000])
