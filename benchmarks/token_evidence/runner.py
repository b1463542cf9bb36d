"""Cells as recipes, run with nfilter's own engine."""

from __future__ import annotations

import copy
import io
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.recipes import base_value, write_recipe
from benchmarks.token_evidence.lines import TRUSTED, Line, lines
from nfilter.engine.arms import right_of
from nfilter.engine.run import run
from nfilter.progress import QuietReporter
from nfilter.recipe.model import load as load_recipe
from nfilter.recipe.sections import Arm
from nfilter.registry.loading import Plugins, load
from nfilter.store.files import digest, read_json

TRUSTED_ROWS: Final = 200
LABELS: Final = 0.3
CHAINED: Final = Path(__file__).resolve().parents[2] / "nfilter" / "recipes" / "chained.yaml"
LINES: Final[Mapping[str, Line]] = {line.name: line for line in lines()}


@dataclass(frozen=True)
class TokenCell:
    """One run: a ``reference`` that learns from clean rows, or a ``train`` of one line at one level."""

    key: str
    kind: Literal["reference", "train"]
    line: str
    percent: int
    seed: int
    after: tuple[str, ...] = ()


def reference_key(seed: int) -> str:
    """The cell of the trusted reference of a seed."""
    return f"reference-s{seed}"


def key_of(line: Line, percent: int, seed: int) -> str:
    """The cell of a line. Without noise a line has no level."""
    name = slug(line.name)
    return f"{name}-s{seed}" if line.noiseless else f"{name}-{percent}-s{seed}"


def slug(name: str) -> str:
    """The name of a line in the key of a cell."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-")


def arm_of(line: Line) -> Arm:
    """Which of the engine's arms a line is."""
    return "cleaned" if line.trained else "vanilla"


def recipe_of(
    base: Mapping[str, Any], cell: TokenCell, trusted: Path | None = None
) -> dict[str, Any]:
    """The recipe of a cell: ``base`` with its noise, stages, loss and models exchanged."""
    value: dict[str, Any] = copy.deepcopy(dict(base))
    value.update(name=cell.key, seed=cell.seed, arms=["cleaned"], samples=[], tokens=[])
    source = value["source"]
    source.pop("noise", None)
    if cell.kind == "reference":
        source.update(split="neighbors", rows=TRUSTED_ROWS)
        value.pop("evaluate")
        return value
    line = LINES[cell.line]
    value["arms"] = [arm_of(line)]
    if line.mixed:
        source.update(
            wrong="uniform", noise={"ratio": LABELS, "wrong": "wrong", "tokens": cell.percent / 100}
        )
    elif not line.noiseless:
        source["noise"] = {"tokens": cell.percent / 100}
    if line.repaired:
        chained = base_value(CHAINED)
        value["models"] = chained["models"]
        value["samples"] = chained["samples"]
    if line.trusted:
        value["models"][TRUSTED] = {"use": "hf", "model": str(trusted)}
    return {**value, **token_sections(line, value["train"])}


def token_sections(line: Line, train: Mapping[str, Any]) -> dict[str, Any]:
    """The sections ``tokens`` and ``train`` of a line, where ``train`` is that of all lines."""
    trainer: dict[str, Any] = {**train, **({} if line.loss is None else {"loss": line.loss})}
    if line.adopt is not None:
        trainer = {"use": "adopt", "from": line.adopt, "with": trainer}
    return {"tokens": [dict(stage) for stage in line.tokens], "train": trainer}


def recipe_digest(base: Mapping[str, Any], cell: TokenCell) -> str:
    """Identifies what a cell does; a line that changed is run again."""
    return digest(recipe_of(base, cell))


@dataclass
class Runner:
    """Runs cells one after another in one process."""

    cells: Cells
    base: Mapping[str, Any]
    commit: str = "unknown"
    plugins: Plugins = field(default_factory=load)

    def __call__(self, cell: TokenCell) -> None:
        """Run a cell and publish its figures.

        Raises:
            NfilterError: whatever the engine raises; the cell then has no figures.
        """
        began = time.process_time()
        out = self.cells.folder(cell.key)
        trusted = (self.cells.folder(reference_key(cell.seed)) / "merged").resolve()
        write_recipe(recipe_of(self.base, cell, trusted), out / "recipe.yaml")
        recipe = load_recipe(out / "recipe.yaml", self.plugins)
        # Warnings stand in run.log; of dozens of runs side by side nobody could tell whose they are.
        metrics = run(
            recipe, self.plugins, out / "run", reporter=QuietReporter(io.StringIO())
        ).metrics
        figures: dict[str, Any] = {
            "tokens": metrics.get("tokens"),
            "samples": metrics["samples"],
            "commit": self.commit,
            "recipe": recipe_digest(self.base, cell),
        }
        if cell.kind == "reference":
            self._merge(out)
        else:
            name = arm_of(LINES[cell.line])
            figures["right"] = right_of(out / "run", name)
            arm = metrics["arms"][name]
            figures.update(
                accuracy=arm["mean"], unanswered=arm["unanswered"], training=arm["training"]
            )
        figures["seconds"] = time.process_time() - began
        self.cells.put(cell.key, figures)
        for folder in ("tokens", "scores", "models"):
            shutil.rmtree(out / "run" / folder, ignore_errors=True)

    def close(self) -> None:
        """Nothing is held."""

    def _merge(self, out: Path) -> None:
        from nfilter_hf.merge import merge

        adapter = out / "run" / "adapters" / "cleaned"
        shutil.rmtree(out / "merged", ignore_errors=True)
        base = read_json(adapter / "adapter_config.json")["base_model_name_or_path"]
        merge(adapter, base, out / "merged")
