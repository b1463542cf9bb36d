"""A cell into a recipe that ``nfilter run`` takes as well: the base recipe, with noise, stages and arms exchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.evidence.lines import KEPT
from benchmarks.evidence.plan import Cell
from nfilter.recipe.yaml_lines import override, read
from nfilter.store.files import publishing

WRONG = "wrong"


def base_value(file: Path, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """The values of the base recipe with ``a.b=c`` overrides, as ``nfilter run --set`` makes them.

    Raises:
        RecipeError: when the file or an override cannot be read.
    """
    document = read(file)
    if assignments:
        override(document, list(assignments))
    value: dict[str, Any] = document.value
    return value


def source_of(base: Mapping[str, Any], noise: str, percent: int) -> dict[str, Any]:
    """The base recipe's source with this noise in place of its own."""
    source = {key: value for key, value in base["source"].items() if key not in ("noise", WRONG)}
    if noise == "none":
        return source
    return {**source, WRONG: noise, "noise": {"ratio": percent / 100, "wrong": WRONG}}


def recipe_of(
    base: Mapping[str, Any], cell: Cell, kept: int | float | None = None
) -> dict[str, Any]:
    """The recipe of a cell. ``kept`` replaces the number of rows, or the share of tokens, that another cell kept.

    Every trained line is trained as the arm ``cleaned``; raw and truth are that arm without stages, the latter
    also without noise. All arms of the engine are trained alike.
    """
    value = copy.deepcopy(dict(base))
    arms = {"answers": [], "detect": [], "vanilla": ["vanilla"], "train": ["cleaned"]}
    value.update(
        name=cell.key,
        seed=cell.seed,
        source=source_of(base, cell.noise, cell.percent),
        samples=[_sized(stage, kept) for stage in cell.samples],
        arms=arms[cell.kind],
    )
    if cell.kind in ("answers", "detect"):
        value.pop("evaluate", None)
    if not any("llm" in stage or "encoder" in stage for stage in cell.samples):
        value.pop("tokens", None)  # the token stages belong to the method, not to its controls
    value.update(copy.deepcopy(dict(cell.changes)))
    if "tokens" in cell.changes:
        value["tokens"] = [_sized(stage, kept) for stage in value["tokens"]]
    return value


def _sized(stage: Mapping[str, Any], kept: int | float | None) -> dict[str, Any]:
    open_fields = [name for name, given in stage.items() if given == KEPT]
    if open_fields and kept is None:
        raise LookupError(f"how much {stage['use']} keeps is not known yet: its cell has not run")
    return {**stage, **dict.fromkeys(open_fields, kept)}


def in_data(source: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The source of a file in the run's folder ``data``, as a recipe in the folder of a cell names it."""
    return {**source, "path": f"../../data/{name}"}


def tested_on(base: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The section ``evaluate`` of the base recipe over another file of that folder."""
    return {**base["evaluate"], "source": in_data(base["evaluate"]["source"], name)}


def write_recipe(value: Mapping[str, Any], file: Path) -> None:
    """Write a recipe as YAML."""
    with publishing(file) as out:
        yaml.safe_dump(dict(value), out, sort_keys=False, allow_unicode=True, width=120)
