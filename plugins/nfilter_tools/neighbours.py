"""``neighbours``: the rows whose questions are nearest to the question of this one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Embeds,
    FloatArray,
    Needs,
    Sample,
    StageConfig,
    ToolArgs,
    ToolCost,
    ToolError,
    ToolResult,
    ToolSite,
)

MOST = 20


class NeighboursConfig(StageConfig):
    """Settings of ``neighbours``."""

    encoder: Annotated[str, Needs(Embeds)] = Field(
        default="encoder", description="The model that embeds the questions."
    )
    labels: bool = Field(
        default=False, description="Whether the responses of the near rows are shown too."
    )
    k: int = Field(
        default=5, ge=1, le=MOST, description="Rows per call, 1 to 20, unless the call says."
    )
    characters: int = Field(
        default=400, ge=20, le=900, description="Characters of each question and each label that are shown."
    )  # fmt: skip


class NeighboursArgs(ToolArgs):
    """How many rows."""

    k: int | None = Field(
        default=None, ge=1, le=MOST, description="How many rows to return, 1 to 20; null for the usual number."
    )  # fmt: skip


class Neighbours:
    """Returns the rows with the highest cosine between their question and this row's question.

    Excluded are the row itself, its parents, rows made from it, and dropped rows. The result has the question of each row
    and, with ``labels``, its response as given; no column of the source.
    """

    name: ClassVar[str] = "neighbours"
    description: ClassVar[str] = (
        "Returns other rows of the dataset whose questions are most similar to this row's question. Their labels, where "
        "shown, may be wrong."
    )
    cost: ClassVar[ToolCost] = "local"
    Config: ClassVar[type[StageConfig]] = NeighboursConfig
    Args: ClassVar[type[ToolArgs]] = NeighboursArgs

    @classmethod
    def reads(cls, config: NeighboursConfig) -> frozenset[str]:
        """Return what the tool reads: the row, the other rows, and their labels if the config says so."""
        return frozenset({"row", "rows", *(["labels"] if config.labels else [])})

    @classmethod
    def problems(cls, config: NeighboursConfig, site: ToolSite) -> Iterable[str]:
        """Return nothing: problems depend on the rows."""
        return ()

    def __init__(self, config: NeighboursConfig, site: ToolSite) -> None:
        self._config = config
        self._site = site

    def call(self, args: NeighboursArgs, row: Sample | None) -> ToolResult:
        """Return the ``k`` nearest rows, nearest first, with the cosine of each.

        Raises:
            ToolError: if there is no row, no encoder, or no other row.
        """
        if row is None:
            raise ToolError("there is no row to find neighbours of")
        rows, vectors = self._index
        if not rows:
            raise ToolError("the dataset has no other rows")
        (vector,) = self._embedded([row.query])
        cosines = vectors @ vector
        near = self._nearest(row, rows, cosines)[: args.k or self._config.k]
        if not near:
            raise ToolError("the dataset has no other rows")
        shown = [(rows[index], float(cosines[index])) for index in near]
        text = "\n\n".join(self._shown(each, number) for number, each in enumerate(shown, start=1))
        return ToolResult(text, [[each.id, round(cosine, 6)] for each, cosine in shown])

    def _nearest(self, row: Sample, rows: list[Sample], cosines: FloatArray) -> list[int]:
        """Return the indices of the other rows, nearest first; ties are ordered by id."""
        kin = {row.id, *row.parents}
        others = [
            index
            for index, other in enumerate(rows)
            if other.id not in kin and row.id not in other.parents
        ]
        return sorted(others, key=lambda index: (-round(float(cosines[index]), 6), rows[index].id))

    def _shown(self, near: tuple[Sample, float], number: int) -> str:
        sample, cosine = near
        lines = [f"{number}. cosine {cosine:.3f}", f"question: {self._cut(sample.query)}"]
        if self._config.labels:
            lines.append(f"label: {self._cut(sample.response)}")
        return "\n".join(lines)

    def _cut(self, text: str) -> str:
        most = self._config.characters
        return text if len(text) <= most else f"{text[:most]}..."

    @cached_property
    def _index(self) -> tuple[list[Sample], FloatArray]:
        """The rows of the run that a model can look up, those not dropped, and their vectors of length 1, [n, d]."""
        rows = [row for row in self._site.rows if row.dropped is None]
        return rows, self._embedded([row.query for row in rows])

    def _embedded(self, texts: list[str]) -> FloatArray:
        if self._site.model is None:
            raise ToolError("there is no encoder to compare questions with")
        vectors = np.asarray(self._site.model(self._config.encoder).embed(texts), dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
