"""Finished cells: one JSON file each, published whole, and one file of all; valid for what they were made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.evidence import kept
from nfilter.metrics.arms import ArmResult
from nfilter.store.files import read_json, write_json


@dataclass(frozen=True)
class Cells:
    """The folder of an evidence run. ``inputs`` identifies world, weights, prompts and base recipe.

    A cell that was made from other inputs, or by another recipe than ``recipes`` has for it (digests by key), is not there:
    it is run again. The recipe is not compared where either side does not say it. ``keep`` is the file of all figures
    (``benchmarks.evidence.kept``): cells that the folder lacks are taken from ``known``, what it held when it was opened.
    """

    out: Path
    inputs: str
    recipes: Mapping[str, str] = field(default_factory=dict)
    keep: Path | None = None
    known: Mapping[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def opened(
        cls, out: Path, inputs: str, recipes: Mapping[str, str], keep: Path | None = None
    ) -> Cells:
        """The cells of a folder and, with ``keep``, of that file.

        Raises:
            StoreError: when the file is damaged.
        """
        return cls(out, inputs, recipes, keep, {} if keep is None else kept.load(keep))

    def expecting(self, recipes: Mapping[str, str]) -> Cells:
        """The same cells; those that ``recipes`` names must have that recipe too."""
        return replace(self, recipes={**self.recipes, **recipes})

    def folder(self, key: str) -> Path:
        """Where a cell runs."""
        return self.out / "cells" / key

    def file(self, key: str) -> Path:
        """Where its figures are."""
        return self.out / "figures" / f"{key}.json"

    def error_file(self, key: str) -> Path:
        """Where it says why it has none."""
        return self.out / "figures" / f"{key}.error.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """The figures of a cell, or None."""
        file = self.file(key)
        found = (read_json(file) if file.is_file() else None, self.known.get(key))
        return next((value for value in found if value and self._is_valid(key, value)), None)

    def _is_valid(self, key: str, value: Mapping[str, Any]) -> bool:
        made, wanted = value.get("recipe"), self.recipes.get(key)
        return value.get("inputs") == self.inputs and (made == wanted or not (made and wanted))

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every cell that has figures, by key, whether it is planned or not."""
        files = (self.out / "figures").glob("*.json")
        keys = {file.stem for file in files if not file.name.endswith(".error.json")}
        for key in sorted(keys | set(self.known)):
            value = self.get(key)
            if value is not None:
                yield key, value

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Publish the figures of a cell."""
        write_json(self.file(key), {**value, "inputs": self.inputs})
        self.error_file(key).unlink(missing_ok=True)

    def fail(self, key: str, error: str) -> None:
        """Say why a cell has no figures; the next run tries it again."""
        write_json(self.error_file(key), {"error": error, "inputs": self.inputs})

    def error(self, key: str) -> str | None:
        """Why a cell has no figures, where that is known."""
        file = self.error_file(key)
        if not file.is_file():
            return None
        value = read_json(file)
        return str(value["error"]) if value.get("inputs") == self.inputs else None


class Keeper:
    """Writes the file of all figures: at once what there is, and again after every cell. Without ``cells.keep``, nothing.

    Cells of other inputs leave the file: nothing could tell what they are of.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._all = {} if cells.keep is None else dict(cells.all())
        self._save()

    def done(self, key: str) -> None:
        """One more cell has figures."""
        value = self._cells.get(key)
        if self._cells.keep is not None and value is not None:
            self._all[key] = value
            self._save()

    def _save(self) -> None:
        if self._cells.keep is not None and self._all:
            kept.save(self._cells.keep, self._all)

    def says(self) -> str | None:
        """What was taken from the file and not from the folder, with the commits that made it; None where nothing was."""
        taken = [v for key, v in self._all.items() if not self._cells.file(key).is_file()]
        if not taken:
            return None
        commits = Counter(str(value.get("commit")) for value in taken)
        told = ", ".join(f"{n} of commit {name}" for name, n in sorted(commits.items()))
        return (
            f"{self._cells.keep} has {len(taken)} cells that are not run again ({told}); "
            "remove it to make them anew"
        )


class Needing(Protocol):
    """A cell, and the cells whose folders it builds on."""

    @property
    def key(self) -> str: ...

    @property
    def after(self) -> tuple[str, ...]: ...


def done(cells: Cells, planned: Sequence[Needing], folders: Collection[str] = ()) -> set[str]:
    """The keys of the planned cells that need not run.

    Those in ``folders`` are built on by others with what they left on disk, not with their figures alone: they run again
    where that is not here (their figures came in a file) and one that needs it is to run.
    """
    found = {cell.key for cell in planned if cells.get(cell.key) is not None}
    while True:
        needed = {key for cell in planned if cell.key not in found for key in cell.after}
        absent = {k for k in needed & set(folders) & found if not _ran_here(cells, k)}
        if not absent:
            return found
        found -= absent


def _ran_here(cells: Cells, key: str) -> bool:
    return cells.file(key).is_file() and cells.folder(key).is_dir()


def arm_result(value: Mapping[str, Any], arm: str) -> ArmResult:
    """The answers of a cell's model to the test set, as the engine's figures take them."""
    unanswered = round(value["unanswered"] * len(value["right"]))
    return ArmResult(arm, value["right"], unanswered, value.get("training"))


def commits_of(values: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many cells each commit made."""
    return dict(Counter(str(value.get("commit")) for value in values))
