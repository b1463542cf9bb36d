"""The cells of datasets: a grid of settings, then lines level by level, the most informative first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.lines import stages_of
from benchmarks.evidence.plan import Cell, Plan, Scope
from benchmarks.evidence.recipes import base_value, in_data, tested_on
from benchmarks.real_tokens.data import DataSet, Files
from benchmarks.real_tokens.lines import (
    CORE,
    FEW,
    LINES,
    MIXED,
    OWN_CONTROL,
    SIZED_BY,
    TRUTH,
    UNTRAINED,
)
from benchmarks.token_evidence.lines import Line
from benchmarks.token_evidence.runner import CHAINED, LABELS, slug, token_sections

MIDDLE: Final = 40
LEVELS: Final = (0, 20, 40, 60)
MIXED_AT: Final = 20
SETTINGS: Final = "settings"
MIXED_PART: Final = "mixed"
MAIN: Final = "main"
GRID: Final[tuple[Mapping[str, Any], ...]] = (
    {"lr": 3e-4},
    {"lr": 1e-3},
    {"lr": 3e-3},
)
"""The settings of the grid; all take one epoch."""
_TOLD: Final = ("prompt", "max_tokens")
"""What the stages of chained.yaml say of the embedded model alone."""


@dataclass(frozen=True)
class Wanted:
    """The seeds and levels of the tables. Levels other than the middle one have only the first seed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    levels: tuple[int, ...] = LEVELS
    quick: bool = False


def key_of(name: str, one: str, level: int, seed: int) -> str:
    """The cell of a line; the untrained model has neither level nor seed."""
    return f"{one}-{slug(name)}" if name == UNTRAINED else f"{one}-{level}-s{seed}-{slug(name)}"


def setting_key(setting: Mapping[str, Any], one: str) -> str:
    """The cell that tries a setting on a data set."""
    return f"{one}-{SETTINGS}-" + "-".join(f"{key}-{value:g}" for key, value in setting.items())


def tried(sets: Sequence[DataSet], base: Mapping[str, Any], files: Files) -> list[Cell]:
    """Return the cells for choosing settings: the line ``truth`` at the middle level, tested on separate rows."""
    made = []
    for one in sets:
        for setting in GRID:
            line = _cell(LINES[TRUTH], one, MIDDLE, 0, base, setting, files)
            changes = {**line.changes, "evaluate": tested_on(base, files.dev(one).name)}
            made.append(Cell(setting_key(setting, one.name), "train", SETTINGS, one.name, MIDDLE, 0, (), changes=changes))  # fmt: skip
    return made


def chosen(cells: Cells, one: str) -> Mapping[str, Any] | None:
    """Return the setting of a dataset with the lowest loss; None until every setting has run."""
    found = [(setting, cells.get(setting_key(setting, one))) for setting in GRID]
    known = [(value["loss"], number) for number, (_, value) in enumerate(found) if value]
    return GRID[min(known)[1]] if len(known) == len(GRID) else None


def plan(
    wanted: Wanted,
    sets: Sequence[DataSet],
    base: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    files: Files,
) -> Plan:
    """Return all cells but those of ``tried``: the middle level seed by seed, the other levels, then wrong labels."""
    levels = tuple(sorted(wanted.levels))
    made = Plan(Scope(wanted.seeds, levels, tuple(one.name for one in sets), wanted.quick))
    for level in sorted(levels, key=lambda level: level != MIDDLE):
        for one in sets:
            names = _names(first=one == sets[0], level=level, quick=wanted.quick)
            for seed in wanted.seeds if level == MIDDLE else wanted.seeds[:1]:
                for name in names:
                    _add(made, name, one, level, seed, base, settings.get(one.name, {}), files)
    if not wanted.quick and sets:
        one, seed = sets[0], wanted.seeds[0]
        for name in MIXED:
            _add(made, name, one, MIXED_AT, seed, base, settings.get(one.name, {}), files)
    return made


def _names(*, first: bool, level: int, quick: bool) -> list[str]:
    """The lines of a level: all of the first data set at the middle level, few of the others there, the core elsewhere."""
    if level != MIDDLE or quick:
        return [name for name in CORE if (level or name != TRUTH) and (first or level == MIDDLE)]
    return [name for name in LINES if name not in MIXED] if first else list(FEW)


def _add(
    made: Plan,
    name: str,
    one: DataSet,
    level: int,
    seed: int,
    base: Mapping[str, Any],
    setting: Mapping[str, Any],
    files: Files,
) -> None:
    made.of[name, one.name, level, seed] = made.add(_cell(LINES[name], one, level, seed, base, setting, files))  # fmt: skip


def _cell(
    line: Line,
    one: DataSet,
    level: int,
    seed: int,
    base: Mapping[str, Any],
    setting: Mapping[str, Any],
    files: Files,
) -> Cell:
    untrained = line.name == UNTRAINED
    samples = _repairs() if line.repaired else []
    sized = SIZED_BY.get(line.name)
    return Cell(
        key=key_of(line.name, one.name, level, seed),
        kind="vanilla" if untrained else "train",
        part=MIXED_PART if line.mixed else MAIN,
        noise=one.name,
        percent=0 if untrained else level,
        seed=0 if untrained else seed,
        samples=tuple(samples),
        size_of=None if sized is None else key_of(sized, one.name, level, seed),
        changes={
            "source": _source(base, line, one, level, 0 if untrained else seed, files),
            "evaluate": tested_on(base, files.test(one).name),
            **({} if untrained else token_sections(line, {**base["train"], **setting})),
            **(_asking(base) if line.repaired else {}),
            **({"answer": "number"} if line.mixed else {}),
        },
    )


def _source(
    base: Mapping[str, Any], line: Line, one: DataSet, level: int, seed: int, files: Files
) -> dict[str, Any]:
    source = in_data(base["source"], files.train(one, seed).name)
    noise: dict[str, Any] = {"ratio": LABELS} if line.mixed else {}
    if level and line.name != UNTRAINED:
        noise["tokens"] = level / 100
    return {**source, "noise": noise} if noise else source


def _repairs() -> list[dict[str, Any]]:
    """The sample stages of chained.yaml, with the templates of any model."""
    return [
        {key: value for key, value in stage.items() if key not in _TOLD}
        for stage in stages_of(base_value(CHAINED))
    ]


def _asking(base: Mapping[str, Any]) -> dict[str, Any]:
    return {"models": {**base["models"], "expert": "student", "encoder": "student"}}


def own_control(name: str) -> str:
    """Return the random mask with as many tokens as a line keeps."""
    return OWN_CONTROL.get(name, "random")
