"""Columns of numbers, one file per column, memory-mapped: filters and sorting over all rows of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

KINDS: Final[Mapping[str, str]] = {
    "fate": "u1", "action": "u1", "stage": "u1", "stages": "u4", "reason": "u2", "flagged": "i1", "wrong": "i1",
    "right_now": "i1", "pinned": "u1", "made": "u1", "label": "u8", "disagreement": "f4", "weight": "f4",
}  # fmt: skip
"""The columns that every run has, with their numpy types. ``label`` is a hash of the final label. Of ``flagged``, ``wrong`` and ``right_now``, -1 is unknown."""


class ColumnWriter:
    """Appends blocks of rows to the files of columns; a score that is met late is NaN for the rows before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self.scores: dict[str, str] = {}
        self._rows = 0
        folder.mkdir(parents=True, exist_ok=True)
        for name, kind in KINDS.items():
            self._files[name] = (folder / f"{name}.{kind}").open("wb")

    def add(
        self,
        columns: Mapping[str, Sequence[float]],
        scores: Sequence[Mapping[str, float]],
        most: int,
    ) -> None:
        """Append a block: ``columns`` has a value per row for every column, ``scores`` the scores of each row."""
        for name, kind in KINDS.items():
            self._files[name].write(np.asarray(columns[name], dtype=kind).tobytes())
        for each in scores:
            for name in each:
                if name not in self.scores and len(self.scores) < most:
                    self._open(name)
        for name, file in self.scores.items():
            values = np.array([each.get(name, np.nan) for each in scores], dtype="f4")
            self._files[file].write(values.tobytes())
        self._rows += len(scores)

    def _open(self, name: str) -> None:
        file = f"score-{len(self.scores):03d}"
        self.scores[name] = file
        out = self._files[file] = (self._folder / f"{file}.f4").open("wb")
        out.write(np.full(self._rows, np.nan, dtype="f4").tobytes())

    def close(self) -> None:
        """Close the files and write the list of scores."""
        for file in self._files.values():
            file.close()
        index = {"rows": self._rows, "scores": self.scores}
        (self._folder / "columns.json").write_text(json.dumps(index), encoding="utf-8")


class Columns:
    """Reads what a ``ColumnWriter`` wrote. Arrays are memory-mapped and have one value per row."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        self.rows: int = index["rows"]
        self.scores: dict[str, str] = index["scores"]
        self._folder = folder
        self._open: dict[str, npt.NDArray[Any]] = {}

    def of(self, name: str) -> npt.NDArray[Any]:
        """Return a column by its name in ``KINDS``."""
        return self._array(name, KINDS[name])

    def score(self, name: str) -> npt.NDArray[np.float32]:
        """Return a score, NaN where a row has none.

        Raises:
            KeyError: when the run has no such score.
        """
        if name in ("disagreement", "weight"):
            return self.of(name)
        return self._array(self.scores[name], "f4")

    def _array(self, file: str, kind: str) -> npt.NDArray[Any]:
        if file not in self._open:
            path = self._folder / f"{file}.{kind}"
            empty = not self.rows
            self._open[file] = (
                np.zeros(0, dtype=kind) if empty else np.memmap(path, dtype=kind, mode="r")
            )
        return self._open[file]
