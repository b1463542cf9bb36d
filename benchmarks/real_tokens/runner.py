"""Runs a cell with nfilter's engine, then scores the clean test rows with the trained model."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.pools import Pools
from benchmarks.evidence.recipes import recipe_of, write_recipe
from benchmarks.real_evidence.runner import Named
from benchmarks.real_tokens.lines import LENDERS, TRUTH_FILE
from benchmarks.real_tokens.plan import key_of
from benchmarks.real_tokens.stage import NAME, with_truth, write_truth
from nfilter.api.calls import ModelRef
from nfilter.api.types import Row, TokenSample
from nfilter.engine.arms import MARKER, read_test
from nfilter.engine.ingest import rows
from nfilter.engine.run import run
from nfilter.progress import QuietReporter
from nfilter.recipe.model import Recipe
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import Plugins
from nfilter.store.files import read_json, read_sealed

DIGITS: Final = 4
_HALF: Final = np.log(2.0)
_LENT: Final = ("scores", "models")
_GONE: Final = ("tokens", "adapters")
"""Large folders of a run that no other cell uses."""


@dataclass
class TokenRunner:
    """Runs cells one after another in one process; the model stays loaded between them."""

    cells: Cells
    base: Mapping[str, Any]
    commit: str = "unknown"
    named: Named = field(default_factory=lambda: Named({}, {}))
    plugins: Plugins = field(default_factory=with_truth)
    _pools: Pools | None = None

    def __call__(self, cell: Cell) -> None:
        """Run a cell and publish its figures.

        Raises:
            NfilterError: whatever the engine raises; the cell then has no figures.
        """
        began = time.process_time()
        out = self.cells.folder(cell.key)
        recipe = self._recipe(cell, out)
        if recipe.tokens:
            self._borrow(cell, out / "run")
        figures = self._trained(recipe, out) if cell.kind == "train" else {}
        trained = time.process_time()
        figures.update(self._tested(recipe, out if cell.kind == "train" else None))
        figures.update(
            cell={key: value for key, value in cell.to_json().items() if key != "changes"},
            recipe=self.named.digest(self.base, cell),
            training_seconds=trained - began,
            seconds=time.process_time() - began,
            commit=self.commit,
        )
        self.cells.put(cell.key, figures)
        lends = cell.key in self._lenders(cell)
        for folder in _GONE if lends else (*_GONE, *_LENT):
            shutil.rmtree(out / "run" / folder, ignore_errors=True)

    def close(self) -> None:
        """Close the models."""
        if self._pools is not None:
            self._pools.close()

    def _recipe(self, cell: Cell, out: Path) -> Recipe:
        value = recipe_of(self.base, cell, self._kept(cell))
        for stage in value.get("tokens", ()):
            if stage["use"] == NAME:
                stage["path"] = str((out / TRUTH_FILE).resolve())
        write_recipe(value, out / "recipe.yaml")
        return load_recipe(out / "recipe.yaml", self.plugins)

    def _kept(self, cell: Cell) -> float | None:
        """Return the fraction of tokens that the cell keeps, for a mask of equal size."""
        other = None if cell.size_of is None else self.cells.get(cell.size_of)
        return None if other is None else share_kept(other)

    def _lenders(self, cell: Cell) -> list[str]:
        """Return the cells of the same rows and noise whose losses and reference other cells can use."""
        return [key_of(name, cell.noise, cell.percent, cell.seed) for name in LENDERS]

    def _borrow(self, cell: Cell, run_dir: Path) -> None:
        """Copy the losses and models of a finished cell; the engine uses those that match."""
        for key in self._lenders(cell):
            lent = self.cells.folder(key) / "run"
            if key != cell.key and self.cells.get(key) is not None and (lent / "scores").is_dir():
                for folder in _LENT:
                    if (lent / folder).is_dir() and not (run_dir / folder).exists():
                        shutil.copytree(lent / folder, run_dir / folder)
                return

    def _trained(self, recipe: Recipe, out: Path) -> dict[str, Any]:
        read = rows(recipe.source, recipe)
        write_truth((row for row in read if isinstance(row, Row)), out / TRUTH_FILE)
        # Without evaluate: its answers are of no use here, and writing them would take longer than training.
        metrics = run(
            recipe.model_copy(update={"evaluate": None}), self.plugins, out / "run", pool=self._pool(recipe), reporter=QuietReporter(io.StringIO()),
        ).metrics  # fmt: skip
        training = read_json(out / "run" / "adapters" / "cleaned" / "training.json")
        return {
            "samples": metrics["samples"],
            "tokens": metrics.get("tokens"),
            "detection": metrics.get("detection"),
            "labels": metrics.get("labels"),
            "training": {name: training[name] for name in ("samples", "steps", "tokens")},
            "device": training["device"],
        }

    def _tested(self, recipe: Recipe, out: Path | None) -> dict[str, Any]:
        """By test id the mean loss of the response's tokens, and the share of them with a probability over one half."""
        model = self._pool(recipe).backend("student")
        test = read_test(recipe)
        settings = {"max_length": recipe.encode.max_length, "turns": recipe.encode.turns}
        encoded: list[TokenSample] = model.encode(test, **settings)
        losses = [
            row[~np.isnan(row)]
            for row in model.score(encoded, None if out is None else _adapter(out))
        ]
        mean = {s.id: round(float(row.mean()), DIGITS) for s, row in zip(encoded, losses, strict=True)}  # fmt: skip
        likely = {s.id: round(float((row < _HALF).mean()), DIGITS) for s, row in zip(encoded, losses, strict=True)}  # fmt: skip
        return {
            "losses": mean,
            "likely": likely,
            "loss": float(np.mean(list(mean.values()))),
        }

    def _pool(self, recipe: Recipe) -> Any:
        if self._pools is None:
            self._pools = Pools(self.plugins)
        return self._pools.of(recipe)


def share_kept(value: Mapping[str, Any]) -> float:
    """Return the fraction of response tokens in the loss of a cell; 1 without a token stage."""
    tokens = value.get("tokens") or {}
    return tokens["in_loss"] / tokens["response"] if tokens.get("response") else 1.0


def _adapter(out: Path) -> ModelRef:
    place = out / "run" / "adapters" / "cleaned"
    made: dict[str, Any] = read_sealed(place / MARKER, out)["ref"]
    return ModelRef(**{**made, "path": str(place)})
