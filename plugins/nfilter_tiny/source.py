"""The task world as a source: ``source: {use: tiny, split: train}``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from nfilter import JSON, Message, Row, Sample, StageConfig, Unreadable
from nfilter_tiny.world import rows


class TinySourceConfig(StageConfig):
    """Which split of the world, and how many of its rows (all by default)."""

    split: Literal["train", "dev", "test"] = "train"
    rows: int | None = Field(default=None, ge=1)


class TinySource:
    """Questions of the embedded task world with their true answers; add ``noise:`` to make some wrong."""

    name: ClassVar[str] = "tiny"
    Config: ClassVar[type[StageConfig]] = TinySourceConfig

    @classmethod
    def problems(cls, config: TinySourceConfig, base_dir: Path) -> Iterable[str]:
        """There is nothing that could be missing."""
        del config, base_dir
        return ()

    @classmethod
    def columns(cls, config: TinySourceConfig, base_dir: Path) -> Mapping[str, str]:
        """The columns of the world's rows."""
        del config, base_dir
        return {"prompt": "question", "response": "answer", "id": "id"}

    def __init__(self, config: TinySourceConfig, base_dir: Path) -> None:
        del base_dir
        self.config = config

    def read(self) -> Iterator[Row | Unreadable]:
        """The rows of the split, always the same and in the same order."""
        for row in rows(self.config.split, self.config.rows):
            messages = (Message("user", row["question"]), Message("assistant", row["answer"]))
            yield Row(Sample(id=row["id"], messages=messages))

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        """Back in the columns ``id``, ``question`` and ``answer``."""
        return {"id": sample.id, "question": sample.query, "answer": sample.response}
