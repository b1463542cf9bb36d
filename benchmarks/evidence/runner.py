"""Runs one cell with nfilter's own engine; trains nothing twice."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.calibration import with_calibration
from benchmarks.evidence.cells import Cells
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.pools import Pools
from benchmarks.evidence.recipes import recipe_of, write_recipe
from nfilter.engine.arms import MARKER, right_of
from nfilter.engine.run import run
from nfilter.metrics.figures import ESTIMATE, reported
from nfilter.progress import QuietReporter
from nfilter.recipe.model import Recipe
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import Plugins
from nfilter.store.artefacts import discard
from nfilter.store.files import digest, read_json, read_jsonl, write_json
from nfilter.store.run_directory import RunDirectory

_FROM_METRICS = (
    "samples", "detection", "calibration", "labels", "relabel", "views", "calls",
)  # fmt: skip


@dataclass
class Runner:
    """Runs cells one after another in one process; the models stay loaded between them."""

    cells: Cells
    base: Mapping[str, Any]
    commit: str = "unknown"
    plugins: Plugins = field(default_factory=with_calibration)
    _pools: Pools | None = None

    def __call__(self, cell: Cell) -> None:
        """Run a cell and publish its figures.

        Raises:
            NfilterError: whatever the engine raises; the cell then has no figures.
        """
        began = time.process_time()
        out = self.cells.folder(cell.key)
        kept = self._kept(cell)
        write_recipe(self.recipe(cell, kept), out / "recipe.yaml")
        recipe = load_recipe(out / "recipe.yaml", self.plugins)
        lenders = [self.cells.folder(key) / "run" / "journal.db" for key in cell.lenders]
        run_dir = out / "run"
        twin = None
        cleaned = began
        if cell.kind == "train":
            # Without arms first: what the samples became says whether somebody trained on them already.
            made = self._engine(recipe.model_copy(update={"arms": ()}), run_dir, lenders)
            cleaned = time.process_time()
            if made["samples"]["kept"]:
                twin = self._borrow(recipe, run_dir, lenders)
            else:  # nothing is left to train on, so that the untrained model is what the line ends in
                recipe = recipe.model_copy(update={"arms": ("vanilla",)})
        metrics = self._engine(recipe, run_dir, lenders)
        figures = self._figures(cell, recipe, metrics, run_dir)
        figures.update(
            cell=cell.to_json(),
            recipe=self.digest(cell),
            seconds=time.process_time() - began,
            cleaning_seconds=cleaned - began,
            trained_in=twin or (cell.key if "cleaned" in recipe.arms else None),
            commit=self.commit,
        )
        if "cleaned" in recipe.arms and twin is None:
            write_json(self._trained(recipe, run_dir), {"cell": cell.key})
        self.cells.put(cell.key, figures)
        _tidy(run_dir)

    def recipe(self, cell: Cell, kept: int | None) -> dict[str, Any]:
        """What the engine runs; ``kept`` is the number of rows of the cell that this one is as large as."""
        return recipe_of(self.base, cell, kept)

    def digest(self, cell: Cell) -> str:
        """Identifies that recipe, wherever it runs."""
        return recipe_digest(self.base, cell)

    def close(self) -> None:
        """Close the models."""
        if self._pools is not None:
            self._pools.close()

    def _engine(self, recipe: Recipe, run_dir: Path, lenders: list[Path]) -> dict[str, Any]:
        # Warnings stand in run.log; of dozens of runs side by side nobody could tell whose they are.
        silent = QuietReporter(io.StringIO())
        if self._pools is None:
            self._pools = Pools(self.plugins)
        pool = self._pools.of(recipe)
        return run(
            recipe, self.plugins, run_dir, pool=pool, lenders=lenders, reporter=silent
        ).metrics

    def _kept(self, cell: Cell) -> int | None:
        if cell.size_of is None:
            return None
        figures = self.cells.get(cell.size_of)
        return None if figures is None else int(figures["samples"]["kept"])

    def _trained(self, recipe: Recipe, run_dir: Path) -> Path:
        """Where it stands who trained on these very samples with these settings."""
        settings = recipe.dump()
        same = digest(
            list(read_jsonl(run_dir / "cleaned.jsonl")),
            [settings.get(part) for part in ("encode", "tokens", "train", "evaluate", "seed")],
            # What else was asked has no part in the adapter; the engine compares the weights.
            settings["models"].get(recipe.encode.model),
            self.cells.inputs,
        )
        return self.cells.out / "trained" / f"{same}.json"

    def _borrow(self, recipe: Recipe, run_dir: Path, lenders: list[Path]) -> str | None:
        """Put an adapter of the same samples where the engine looks for its own, and lend its answers.

        The engine compares fingerprints before it uses what is there, and trains anew where they differ.
        """
        file = self._trained(recipe, run_dir)
        key = str(read_json(file)["cell"]) if file.is_file() else None
        if key is None or self.cells.get(key) is None:
            return None
        other = self.cells.folder(key) / "run"
        adapter, own = other / "adapters" / "cleaned", run_dir / "adapters" / "cleaned"
        if not (adapter / MARKER).is_file() or own.resolve() == adapter.resolve():
            return None
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(adapter, own)
        lenders.append(other / "journal.db")
        return key

    def _figures(
        self, cell: Cell, recipe: Recipe, metrics: Mapping[str, Any], run_dir: Path
    ) -> dict[str, Any]:
        out: dict[str, Any] = {name: metrics[name] for name in _FROM_METRICS if name in metrics}
        if (said := reported(metrics, ESTIMATE)) is not None:
            out[ESTIMATE] = said[1]
        if cell.kind == "detect":
            out["estimates"] = _estimates(recipe, run_dir)
        if recipe.arms:
            (arm,) = recipe.arms
            out["right"] = right_of(run_dir, arm)
            figures = metrics["arms"][arm]
            out.update(accuracy=figures["mean"], unanswered=figures["unanswered"])
            out["training"] = figures["training"]
        training = run_dir / "adapters" / "cleaned" / "training.json"
        if training.is_file():
            out["device"] = read_json(training).get("device")
        return out


def recipe_digest(base: Mapping[str, Any], cell: Cell) -> str:
    """Identifies what a cell does; a plan that changed runs it again."""
    return digest(recipe_of(base, cell, 0 if cell.size_of else None), cell.size_of)


def _estimates(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The noise rate that each check estimated: a run's own metrics keep the last one's alone."""
    directory = RunDirectory(run_dir)
    found = {}
    for number, use in enumerate(recipe.samples, start=1):
        if use.name == "robustft.check":
            report = directory.stage(number, use.name).summary().get("report") or {}
            found[use.config.into] = report.get("estimated_noise_rate")
    return found


def _tidy(run_dir: Path) -> None:
    """Remove what only a run that goes on needs; journal, adapter, decisions' outcome and figures stay."""
    for folder in [*run_dir.glob("[0-9][0-9]-*")]:
        discard(folder)
    shutil.rmtree(run_dir / "tokens", ignore_errors=True)
