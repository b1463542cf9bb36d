"""Conditions into cells: what is run, in which order, and which cell gives which figure.

Cells that would do the same are one cell: a sweep's centre is the main run, an arm without noise is one for all
levels. A cell may borrow answers of other cells (``lenders``), and then runs after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from benchmarks.evidence.lines import (
    ABLATIONS,
    KEPT,
    LINES,
    detection,
    fewer,
    line,
    stages_of,
    views,
)
from nfilter.store.files import digest

Noise = str
"""``none``, ``uniform`` or ``own``; of real data, the name of the data set."""
Kind = Literal["answers", "vanilla", "train", "detect"]
Place = tuple[str, str, int, int]
"""Where a figure belongs: line, noise, percent, seed."""

BETAS: Final = tuple(round(step / 10, 1) for step in range(1, 11))
KS: Final = tuple(range(1, 9))
NOISELESS: Final = frozenset({"truth", "truth-size"})
ANSWERS: Final = "answers"
VANILLA: Final = "vanilla"
MIDDLE: Final = 50


@dataclass(frozen=True)
class Cell:
    """One run: ``key`` names its folder. ``size_of`` is the cell whose number of kept rows replaces ``kept``.

    ``changes`` are sections of the recipe that replace the base recipe's.
    """

    key: str
    kind: Kind
    part: str
    noise: Noise
    percent: int
    seed: int
    samples: tuple[Mapping[str, Any], ...]
    size_of: str | None = None
    lenders: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def after(self) -> tuple[str, ...]:
        """The cells that must have run before."""
        return (*((self.size_of,) if self.size_of else ()), *self.lenders)

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Scope:
    """What the tables are over."""

    seeds: tuple[int, ...] = (0, 1, 2)
    percents: tuple[int, ...] = (30, 50, 70)
    noises: tuple[Noise, ...] = ("uniform", "own")
    quick: bool = False

    @classmethod
    def small(cls) -> Scope:
        """One seed, one level, the main table."""
        return cls(seeds=(0,), percents=(MIDDLE,), quick=True)


@dataclass
class Plan:
    """Cells in the order in which they are wanted, and for every figure the cell that has it."""

    scope: Scope
    cells: list[Cell] = field(default_factory=list)
    of: dict[Place, str] = field(default_factory=dict)
    detection: dict[tuple[str, int, int], str] = field(default_factory=dict)
    fewer: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _same: dict[str, str] = field(default_factory=dict)

    def add(self, cell: Cell) -> str:
        """Add a cell unless one does the same already; the key of the one that stays."""
        same = digest(
            cell.kind, cell.noise, cell.percent, cell.seed, [dict(s) for s in cell.samples], cell.size_of, cell.changes
        )  # fmt: skip
        if same not in self._same:
            self._same[same] = cell.key
            self.cells.append(cell)
        return self._same[same]


def plan(
    scope: Scope,
    base: Mapping[str, Any],
    published: Mapping[str, Any],
    prompts: Iterable[str] = (),
) -> Plan:
    """All cells of a scope: shared answers, the main table, detection, ablations, sweeps."""
    made = _Planner(Plan(scope), base, published, tuple(prompts))
    made.shared()
    for percent in sorted(scope.percents, key=lambda level: level != MIDDLE):
        for noise in scope.noises:
            made.lines("main", LINES, noise, percent)
    for percent in sorted(scope.percents, key=lambda level: level != MIDDLE):
        for noise in scope.noises:
            made.detect(noise, percent)
    if not scope.quick and MIDDLE in scope.percents:
        for noise in scope.noises:
            made.lines("ablation", ABLATIONS, noise, MIDDLE)
        for noise in scope.noises:
            made.lines("sweep", [f"beta={beta}" for beta in BETAS], noise, MIDDLE)
            made.lines("sweep", [f"k={k}" for k in KS], noise, MIDDLE)
    return made.plan


@dataclass
class _Planner:
    plan: Plan
    base: Mapping[str, Any]
    published: Mapping[str, Any]
    prompts: Sequence[str]

    def shared(self) -> None:
        asked = views(self.base)
        self.plan.add(Cell(ANSWERS, "answers", "shared", "none", 0, 0, tuple(asked)))
        self.plan.add(Cell(VANILLA, "vanilla", "shared", "none", 0, 0, ()))

    def lines(self, part: str, names: Iterable[str], noise: Noise, percent: int) -> None:
        # By line and then by seed would show no interval for long; by seed and then by line shows one at once.
        for seed in self.plan.scope.seeds:
            for name in _needed_first(names):
                key = self._line(part, name, noise, percent, seed)
                self.plan.of[name, noise, percent, seed] = key

    def _line(self, part: str, name: str, noise: Noise, percent: int, seed: int) -> str:
        if name == "vanilla":
            return VANILLA
        samples = tuple(line(name, self.base, self.published, self.prompts))
        main = self.plan.of.get(("robustft", noise, percent, seed))
        sized = any(stage.get("keep") == KEPT for stage in samples)
        quiet = name in NOISELESS
        asks = bool(samples) and not sized
        return self.plan.add(
            Cell(
                key=f"{noise}-{percent}-s{seed}-{name}"
                if not quiet or sized
                else f"s{seed}-{name}",
                kind="train",
                part=part,
                noise="none" if quiet else noise,
                percent=0 if quiet else percent,
                seed=seed,
                samples=samples,
                size_of=main if sized else None,
                lenders=((ANSWERS, main) if main else (ANSWERS,)) if asks else (),
            )
        )

    def detect(self, noise: Noise, percent: int) -> None:
        stages = tuple(detection(self.base))
        for seed in self.plan.scope.seeds:
            key = f"{noise}-{percent}-s{seed}-detection"
            cell = Cell(key, "detect", "detection", noise, percent, seed, stages, None, (ANSWERS,))
            self.plan.detection[noise, percent, seed] = self.plan.add(cell)
            lazy = fewer(stages_of(self.base))
            if lazy is not None:
                key = f"{noise}-{percent}-s{seed}-fewer-calls"
                main = self.plan.of["robustft", noise, percent, seed]
                lent = (ANSWERS, main)
                cell = Cell(
                    key, "detect", "detection", noise, percent, seed, tuple(lazy), None, lent
                )
                self.plan.fewer[noise, percent, seed] = self.plan.add(cell)


def _needed_first(names: Iterable[str]) -> list[str]:
    # RobustFT's own run says how many rows "the same size" is, and lends its answers.
    return sorted(names, key=lambda name: name != "robustft")
