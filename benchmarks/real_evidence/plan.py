"""Data sets into cells: a grid of settings on rows held out of the truth, then lines and detection at every level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.evidence.cells import Cells, arm_result
from benchmarks.evidence.figures import Difference
from benchmarks.evidence.lines import KEPT, Stage
from benchmarks.evidence.plan import MIDDLE, Cell, Plan, Scope
from benchmarks.evidence.recipes import in_data, tested_on
from benchmarks.real_evidence.data import DataSet, Files
from benchmarks.real_evidence.figures import knows_more
from benchmarks.real_evidence.lines import (
    ASKING,
    CHECKED,
    DEFAULT,
    FEW,
    LINES,
    NEIGHBORS,
    NOISELESS,
    ROBUSTFT,
    detection,
    stages,
)
from nfilter.metrics.arms import ArmResult

GRID: Final[tuple[Mapping[str, Any], ...]] = (
    {"lr": 5.4e-4, "max_steps": 160, "batch_size": 4},
    {"lr": 2e-3, "max_steps": 160, "batch_size": 4},
    {"lr": 1e-3, "max_steps": 320, "batch_size": 2},
    {"lr": 1e-3, "max_steps": 320, "batch_size": 4},
)
"""The settings that are tried. They see 640 or 1,280 rows: more would not fit into the hours that the page may take."""
TRIED_SEEDS: Final = (0, 1)
"""The seeds that each setting is tried with: one that trains well with one seed and fails with the next is of no use."""
TAUGHT: Final = ("vanilla", "truth")
TRUSTED_AT: Final = 70
SETTINGS: Final = "settings"
_ASKED: Final = ("robustft.answer", "robustft.reason")


@dataclass(frozen=True)
class Shipped:
    """Recipes that nfilter ships or writes: ``default`` by data set, level and seed; the stages of two others."""

    default: Mapping[tuple[str, int, int], Mapping[str, Any]]
    robustft: Sequence[Stage]
    official: Sequence[Stage]

    def asking(self, name: str, level: int, seed: int) -> list[str]:
        """The lines that have the student answer every row: those of RobustFT, and ``default`` where it does so too."""
        written = self.default.get((name, level, seed), {}).get("samples", [])
        return [*ASKING, *([DEFAULT] if any(stage["use"] in _ASKED for stage in written) else [])]

    def stages(self, name: str, level: int, seed: int) -> dict[str, Sequence[Stage]]:
        """The sample stages of each, for a data set at a level."""
        default = self.default.get((name, level, seed), {})
        return {DEFAULT: default.get("samples", []), ROBUSTFT: self.robustft, "official": self.official}  # fmt: skip


def key_of(setting: Mapping[str, Any], name: str, seed: int) -> str:
    """The cell that tries a setting on a data set; seed 0 is not named."""
    named = [f"{key}-{value:g}" for key, value in setting.items()]
    return f"{name}-{SETTINGS}-" + "-".join(named) + (f"-s{seed}" if seed else "")


def seeds_tried(cells: Cells, setting: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The figures of a setting on a data set, of the seeds that have run."""
    found = (cells.get(key_of(setting, name, seed)) for seed in TRIED_SEEDS)
    return [value for value in found if value is not None]


def tried(one: DataSet, base: Mapping[str, Any], files: Files) -> list[Cell]:
    """The cells that settings are chosen by: the truth of a data set without some rows, tested on those."""
    fit, dev = files.dev(one)
    made = []
    for setting in GRID:
        changes = {
            "source": in_data(base["source"], fit.name),
            "evaluate": tested_on(base, dev.name),
            "train": {**base["train"], **setting},
        }
        made += [
            Cell(key_of(setting, one.name, seed), "train", SETTINGS, one.name, 0, seed, (), changes=changes)
            for seed in TRIED_SEEDS
        ]  # fmt: skip
    return made


def chosen(cells: Cells, name: str) -> Mapping[str, Any] | None:
    """The setting by a data set's held-out rows and the worse of its seeds: the cheapest of those within one standard error of the best.

    Of equals the best; None until every setting was tried with every seed.
    """
    tries = [(setting, seeds_tried(cells, setting, name)) for setting in GRID]
    if any(len(values) < len(TRIED_SEEDS) for _, values in tries):
        return None
    known = [(setting, _worst(values)) for setting, values in tries]
    best = max(known, key=lambda one: one[1].accuracy)[1]
    near = []
    for setting, result in known:
        gap = Difference.of([(best, result)])
        if gap.mean <= gap.error * (1 + 1e-9):
            seen = setting["max_steps"] * setting["batch_size"]
            near.append((seen, -result.accuracy, setting["lr"], setting))
    return min(near, key=lambda one: one[:3])[3]


def _worst(values: Sequence[Mapping[str, Any]]) -> ArmResult:
    return min((arm_result(value, "dev") for value in values), key=lambda one: one.accuracy)


@dataclass(frozen=True)
class Wanted:
    """What the tables are over: ``asked`` has the lines and rules for which the student answers every row."""

    seeds: tuple[int, ...] = (0, 1, 2)
    levels: tuple[int, ...] = (30, 50, 70)
    quick: bool = False
    asked: bool = False

    def of(self, one: DataSet) -> list[int]:
        """The levels of a data set, the middle one first."""
        found = [level for level in one.noisy if level in self.levels]
        return sorted(found, key=lambda level: (level != MIDDLE, level))


def quick_sets(sets: Sequence[DataSet]) -> list[DataSet]:
    """The smallest data set whose rows have the same options, else the smallest."""
    return [min(sets, key=lambda one: (not one.closed, len(one.truth), one.name))]


def in_order(sets: Sequence[DataSet]) -> list[DataSet]:
    """Those with the same options in all rows first, small ones first."""
    return sorted(sets, key=lambda one: (not one.closed, len(one.truth), one.name))


def lines_of(one: DataSet, level: int, wanted: Wanted, asking: Sequence[str]) -> list[str]:
    """The lines of a data set at a level that are not ``asking``, those first that others need."""
    every = [name for name in LINES if name not in asking]
    names = [name for name in every if one.closed or name in FEW]
    if level != TRUSTED_AT or wanted.quick:
        names = [name for name in names if name not in CHECKED]
    first = {name: place for place, name in enumerate(("vanilla", "raw", "truth", NEIGHBORS, CHECKED[0], "classifier", "classifier, trusted", "cleanlab", DEFAULT))}  # fmt: skip
    return sorted(names, key=lambda name: first.get(name, len(first)))


def plan(
    wanted: Wanted,
    sets: Sequence[DataSet],
    base: Mapping[str, Any],
    setting: Mapping[str, Any],
    shipped: Shipped,
    files: Files,
    unlearned: Collection[str] = (),
) -> Plan:
    """All cells but those of ``tried``, in the order of their worth: of a data set seed by seed, the middle level first.

    Of an ``unlearned`` data set, the lines that tell so and what stages find.
    """
    percents = tuple(sorted({level for one in sets for level in wanted.of(one)}))
    scope = Scope(wanted.seeds, percents, tuple(one.name for one in sets), wanted.quick)
    made = _Planner(Plan(scope), wanted, base, setting, shipped, files)
    for one in sets:
        made.taught(one)
        for seed in wanted.seeds:
            for level in wanted.of(one):
                if one.name in unlearned:
                    made.detect(one, level, seed)
                    continue
                asking = shipped.asking(one.name, level, seed)
                for name in lines_of(one, level, wanted, asking):
                    made.line(name, one, level, seed)
                made.detect(one, level, seed)
    for one in [one for one in sets if one.name not in unlearned] if wanted.asked else ():
        for seed in wanted.seeds:
            for level in wanted.of(one):
                for name in shipped.asking(one.name, level, seed):
                    made.line(name, one, level, seed)
    return made.plan


def line_key(name: str, one: DataSet, level: int, seed: int, *, sized: bool = False) -> str:
    """The cell of a line: without a level where it has no noise, without a seed where it is not trained."""
    word = name.replace(", ", "-").replace(" ", "-")
    if name == "vanilla":
        return f"{one.name}-{word}"
    if name in NOISELESS and not sized:
        return f"{one.name}-s{seed}-{word}"
    return f"{one.name}-{level}-s{seed}-{word}"


def is_unlearned(cells: Cells, one: DataSet, seed: int) -> bool:
    """Whether the student that was trained on a data set's truth is not shown to know more than the most frequent answer.

    False as long as it was not trained.
    """
    value = cells.get(line_key("truth", one, MIDDLE, seed))
    return value is not None and not knows_more(value["accuracy"], len(one.test), one.frequent)


@dataclass
class _Planner:
    plan: Plan
    wanted: Wanted
    base: Mapping[str, Any]
    setting: Mapping[str, Any]
    shipped: Shipped
    files: Files

    def taught(self, one: DataSet) -> None:
        """The lines that tell whether the student learns the task of a data set."""
        for name in TAUGHT if self.wanted.of(one) else ():
            self.line(name, one, self.wanted.of(one)[0], self.wanted.seeds[0])

    def line(self, name: str, one: DataSet, level: int, seed: int) -> None:
        quiet = name in NOISELESS
        samples = tuple(stages(name, self.shipped.stages(one.name, level, seed)))
        sized = any(stage.get("keep") == KEPT for stage in samples)
        cell = Cell(
            key=line_key(name, one, level, seed, sized=sized),
            kind="vanilla" if name == "vanilla" else "train",
            part="main",
            noise=one.name,
            percent=0 if quiet or name == "vanilla" else level,
            seed=0 if name == "vanilla" else seed,
            samples=samples,
            size_of=self._size(one, level, seed) if sized else None,
            changes=self._changes(name, one, level, seed),
        )
        self.plan.of[name, one.name, level, seed] = self.plan.add(cell)

    def _size(self, one: DataSet, level: int, seed: int) -> str:
        """The cell that says how many rows the controls have: where most labels are wrong the view needs checked ones."""
        found = (self.plan.of.get((name, one.name, level, seed)) for name in (CHECKED[0], NEIGHBORS))  # fmt: skip
        return next(key for key in found if key is not None)

    def _changes(self, name: str, one: DataSet, level: int, seed: int) -> dict[str, Any]:
        changes = {
            "source": in_data(self.base["source"], self._file(name, one, level, seed)),
            "evaluate": tested_on(self.base, self.files.test(one).name),
        }
        if name != "vanilla":
            changes["train"] = {**self.base["train"], **self.setting}
        if name == DEFAULT:
            written = self.shipped.default.get((one.name, level, seed), {})
            changes |= {part: written[part] for part in ("answer", "tokens") if part in written}
            # The student is the same in all lines, so that equal rows are trained on once.
            changes["models"] = {**written.get("models", {}), "student": self.base["models"]["student"]}  # fmt: skip
        return changes

    def _file(self, name: str, one: DataSet, level: int, seed: int) -> str:
        if name.endswith(", trusted"):
            return self.files.checked(one, level, seed).name
        if name == "trusted alone":
            return self.files.alone(one, seed).name
        quiet = name in NOISELESS or name == "vanilla"
        return self.files.train(one, 0, 0).name if quiet else self.files.train(one, level, seed).name  # fmt: skip

    def detect(self, one: DataSet, level: int, seed: int) -> None:
        asked = [dict(s) for s in self.shipped.robustft if s["use"] in _ASKED]
        samples = detection(asked if self.wanted.asked else ())
        source = in_data(self.base["source"], self.files.train(one, level, seed).name)
        cell = Cell(
            f"{one.name}-{level}-s{seed}-detection", "detect", "detection", one.name, level, seed, tuple(samples),
            changes={"source": source},
        )  # fmt: skip
        self.plan.detection[one.name, level, seed] = self.plan.add(cell)
