"""Executors: what starts the processes of one run, on this machine or on others, and waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, Self

from nfilter.api.settings import StageConfig
from nfilter.api.types import JSON


@dataclass(frozen=True, slots=True)
class Job:
    """A run for ``world`` processes, called ranks. All values are JSON, so that any machine can receive them.

    Attributes:
        recipe: The sections of the recipe.
        file: The absolute path of the recipe's file, where its relative paths start.
        out: The absolute path of the run directory, on a file system that all ranks share.
        world: The number of ranks.
        limit: The number of rows that are read; None reads all.
        progress: Whether rank 0 prints progress; warnings are always printed.
        plugins: Absolute paths of Python files with plugins, beside the installed ones.
        lenders: Absolute paths of journals whose answers are reused.
        allow_hosts: Hosts that the user allows.
        allow: What else the user allows, such as ``programs``.
    """

    recipe: Mapping[str, JSON]
    file: str
    out: str
    world: int
    limit: int | None = None
    progress: bool = False
    plugins: tuple[str, ...] = ()
    lenders: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()

    def values(self) -> dict[str, JSON]:
        """Return the job as JSON, the argument of ``nfilter.run_rank``."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the job with these values."""
        lists = {name: tuple(each) for name, each in values.items() if isinstance(each, list)}
        return cls(**{**values, **lists})


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How a rank ended: without an error, or with the name of its class and its message."""

    rank: int
    kind: str | None = None
    error: str = ""

    def values(self) -> dict[str, JSON]:
        """Return the end as JSON."""
        return {"rank": self.rank, "kind": self.kind, "error": self.error}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the end with these values."""
        return cls(**values)


class Executor(Protocol):
    """Starts the ranks of a run and waits for them, named in ``executor: {use: NAME, ...}``.

    It knows nothing of the run: a rank is a call of ``nfilter.run_rank`` in a process of its own, and the ranks communicate by
    files of the run directory.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def workers(cls, config: Any) -> int:
        """Return the number of ranks, at least 1."""
        ...

    @classmethod
    def problems(cls, config: Any) -> Iterable[str]:
        """What is wrong with the config that can be seen without starting anything, such as a package that is not installed."""
        ...

    def __init__(self, config: Any) -> None: ...

    def run(self, job: Job) -> Iterator[RankEnd]:
        """Call ``nfilter.run_rank(job.values(), rank)`` for each rank, all at the same time, and yield what it returns.

        A process that is lost is started again: it resumes from the run directory. When the iterator is closed, all ranks that
        still run are ended; a rank may be ended at any instant.

        Raises:
            NfilterError: if the ranks cannot be started.
        """
        ...
