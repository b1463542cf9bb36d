"""Two runs side by side: their figures, and the rows whose fate differs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nfilter import compare_runs
from nfilter_view.building import TEXTS
from nfilter_view.index import Index


def figures(a: Path, b: Path) -> dict[str, Any]:
    """Return the figures of two runs, and what stands against comparing them."""
    table = compare_runs([a, b])
    rows = [
        {
            "name": row.name,
            "cells": [asdict(cell) if cell is not None else None for cell in row.cells],
        }
        for row in table.rows
    ]
    # The page names the runs as the first and the second.
    return {"rows": rows, "notes": [note.removeprefix(f"{a} and {b}: ") for note in table.notes]}


class Difference:
    """The rows whose fate or label differs between two indexed runs: their numbers in both, and counts by kind."""

    def __init__(self, a: Index, b: Index, folders: tuple[Path, Path]) -> None:
        self._a, self._b = a, b
        first, second, self.only_a, self.only_b = _joined(*(folder / TEXTS for folder in folders))
        fates = [index.columns.of("fate")[at] for index, at in ((a, first), (b, second))]
        hashes = [index.columns.of("label")[at] for index, at in ((a, first), (b, second))]
        labels = (fates[0] == 0) & (fates[1] == 0) & (hashes[0] != hashes[1])
        differing = (fates[0] != fates[1]) | labels
        self.counts = {
            "same": int((~differing).sum()),
            "kept_to_dropped": int(((fates[0] == 0) & (fates[1] == 1)).sum()),
            "dropped_to_kept": int(((fates[0] == 1) & (fates[1] == 0)).sum()),
            "other_label": int((labels & (fates[0] == fates[1])).sum()),
            "only_first": self.only_a,
            "only_second": self.only_b,
        }
        self._kinds = np.where(labels & (fates[0] == fates[1]), 2, np.where(fates[0] == 0, 0, 1))[
            differing
        ]
        self._places = np.stack([first[differing], second[differing]], axis=1)

    def total(self, kind: int | None) -> int:
        """Return the number of differing rows of a kind: 0 kept to dropped, 1 dropped to kept, 2 another label."""
        return len(self._of(kind))

    def page(self, kind: int | None, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return differing rows as both runs' tables show them."""
        pairs = self._of(kind)[offset : offset + limit]
        ours, theirs = (
            index.page(pairs[:, side].tolist()) for side, index in enumerate((self._a, self._b))
        )
        return [{"first": one, "second": two} for one, two in zip(ours, theirs, strict=True)]

    def _of(self, kind: int | None) -> Any:
        return self._places if kind is None else self._places[self._kinds == kind]


def _joined(a: Path, b: Path) -> tuple[Any, Any, int, int]:
    """The numbers of the rows with one id in both runs, int64 [rows] each, and how many are in one alone."""
    with closing(_attached(a, b)) as db:
        found = db.execute("SELECT x.n, y.n FROM rows x JOIN b.rows y USING (id) ORDER BY x.n")
        parts = []
        while block := found.fetchmany(100_000):
            parts.append(np.array(block, dtype=np.int64))
        pairs = np.concatenate(parts) if parts else np.zeros((0, 2), dtype=np.int64)
        ((size_a, size_b),) = db.execute(
            "SELECT (SELECT count(*) FROM main.rows), (SELECT count(*) FROM b.rows)"
        )
    return pairs[:, 0], pairs[:, 1], size_a - len(pairs), size_b - len(pairs)


def _attached(a: Path, b: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{a.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    db.execute("ATTACH DATABASE ? AS b", (f"{b.resolve().as_uri()}?mode=ro&immutable=1",))
    return db
