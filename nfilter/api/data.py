"""The protocols of sources and exporters, and the result that an exporter receives."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from nfilter.api.capabilities import TokenizerDigest
from nfilter.api.settings import StageConfig
from nfilter.api.stages import NoProgress, Progress
from nfilter.api.types import JSON, Row, Sample, TokenSample, Unreadable


class Source(Protocol):
    """Reads rows, and restores samples to the original shape of their rows."""

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def problems(cls, config: Any, base_dir: Path) -> Iterable[str]:
        """Return faults that are detectable without reading all rows, e.g. a missing file or column."""
        ...

    @classmethod
    def columns(cls, config: Any, base_dir: Path) -> Mapping[str, str]:
        """Return the detected columns by role (``prompt``, ``response``, ...), for ``init`` and ``check``."""
        ...

    def __init__(self, config: Any, base_dir: Path) -> None: ...

    def read(self) -> Iterator[Row | Unreadable]:
        """Yield all rows in order; unreadable rows as ``Unreadable``."""
        ...

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        """Return the sample in the columns of this source, with its current response and its ``id``."""
        ...


@runtime_checkable
class IdentifiesData(Protocol):
    """A source whose data is more than the file at ``path``: it says what tells this data from other data."""

    @classmethod
    def identity(cls, config: Any, base_dir: Path) -> str:
        """A text that changes when the data behind the settings does, such as a commit.

        Raises:
            SourceError: when that cannot be found out; a run does not start then.
        """
        ...


@runtime_checkable
class RemarksOnData(Protocol):
    """A source that tells a person about columns which it does not read, such as a second one with labels."""

    @classmethod
    def remarks(cls, config: Any, base_dir: Path) -> Iterable[str]:
        """Return one sentence per remark, for ``init`` and ``check``, from the first rows.

        Raises:
            SourceError: when the data cannot be read.
        """
        ...


@runtime_checkable
class FindsSettings(Protocol):
    """A source that finds settings which its data needs, such as the delimiter of a table; ``init`` writes them into the recipe."""

    @classmethod
    def needed_settings(cls, config: Any, base_dir: Path) -> Mapping[str, JSON]:
        """Return settings to add to ``config``; empty if it needs none, or the data cannot be read."""
        ...


class ShowsBytes(Protocol):
    """Shows the progress of a copy in the block: of ``total`` bytes, None if that is unknown. ``advance`` counts bytes."""

    def __call__(self, total: int | None, text: str) -> AbstractContextManager[Progress]: ...


def show_no_bytes(total: int | None, text: str) -> AbstractContextManager[Progress]:
    """Show nothing."""
    del total, text
    return nullcontext(NoProgress())


@runtime_checkable
class FetchesData(Protocol):
    """A source whose data may be on another machine: it copies the data to this one before anything is read.

    ``own_hosts``, a set of hosts, need no permission of the user. The engine calls ``fetch`` only if all others in
    ``hosts(config)`` have it; no other method may connect to another machine.
    """

    @classmethod
    def hosts(cls, config: Any) -> Iterable[str]:
        """Return the hosts that the data comes from; none for data of this machine."""
        ...

    @classmethod
    def fetch(
        cls, config: Any, base_dir: Path, allowed: Container[str], progress: ShowsBytes
    ) -> None:
        """Copy the data to this machine, if there is no copy of its present version; for data of this machine do nothing.

        Args:
            config: The settings of the source.
            base_dir: The recipe's folder.
            allowed: The hosts that connections may go to; one that a redirect names counts too.
            progress: Shows the bytes that are copied.

        Raises:
            SourceError: when the data cannot be copied; a run does not start then.
        """
        ...


@dataclass(frozen=True, slots=True)
class FineTune:
    """How the recipe of a run trains, for a format that comes with a configuration for another trainer.

    Attributes:
        model: The base model: a hub id, a folder or a file; the path of a model that a plugin ships.
        settings: The settings of the trainer by their names in the recipe; ``auto`` is replaced by what the run chose.
        max_length: Tokens per row at most; None for no limit.
        seed: The seed of the run.
    """

    model: str
    settings: Mapping[str, JSON]
    max_length: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of a run for an exporter: the remaining rows, their tokens in the same order, the names of reason bits.

    ``tokenizer`` made the ids; None if the model's backend provides no digest. ``encoded`` is False for a run without tokens,
    e.g. with rules only; ``tokens`` and ``reasons`` are then empty. ``fine_tune`` is None for a recipe without training.
    """

    samples: Sequence[Sample]
    tokens: Sequence[TokenSample]
    reasons: Sequence[str]
    tokenizer: TokenizerDigest | None = None
    encoded: bool = True
    fine_tune: FineTune | None = None


class Exporter(Protocol):
    """Writes the remaining rows of a run for another program.

    A class with ``takes_rows = True`` can also export a run without tokens; for others the engine refuses such a run.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    def __init__(self, config: Any) -> None: ...

    def export(self, run: Exported, out: Path) -> Iterable[str]:
        """Write files into the empty folder ``out``; return a line about each, and about content that the format cannot represent.

        The engine publishes the folder atomically after this returns, so the files need no atomic writes.
        """
        ...
