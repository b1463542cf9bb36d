"""The map in docs/architecture.md agrees with the code: the arrows between rooms, and the steps of a row."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter.engine.run import run
from nfilter.recipe.model import load
from nfilter.registry.loading import load as load_plugins

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\d+\. `(nfilter\.[\w.]+)` ", TEXT, re.MULTILINE)

RECIPE = """
name: map
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: rows.jsonl}
samples: [{use: entp.purge}]
arms: [cleaned]
encode: {model: student}
tokens: [{use: tokens.random, k: 0.5}]
train: {use: hf.lora, model: student, rank: 2, max_steps: 1, batch_size: 2}
evaluate: {source: {use: jsonl, path: rows.jsonl}, max_tokens: 2}
answer: exact
"""


def test_the_arrows_are_the_layers_of_the_import_rules() -> None:
    (line,) = re.findall(r"^(`cli` → .*)$", TEXT, re.MULTILINE)
    drawn = [re.findall(r"`(\w+)`", rooms) for rooms in line.split(" → ")]
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [
        each["layers"]
        for each in rules["contracts"]
        if each["type"] == "layers"
        and "layers" in each
        and each["name"] == "The core imports downward only"
    ]
    held = [[room.strip() for room in rooms.split("|")] for rooms in layers]
    assert drawn == [rooms for rooms in held if rooms != ["__main__"]]


def test_a_row_takes_the_steps_that_are_listed_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for step in STEPS[2:]:
        module, name = step.rsplit(".", 1)
        _record(monkeypatch, importlib.import_module(module), name, step, called)
    rows = "".join(f'{{"prompt": "{n}+1?", "response": "{n + 1}"}}\n' for n in range(11, 17))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    plugins = load_plugins()
    run(load(tmp_path / "recipe.yaml", plugins), plugins, tmp_path / "run")
    assert 8 <= len(STEPS) <= 12
    assert STEPS[:2] == ["nfilter.recipe.model.load", "nfilter.engine.run.run"]
    assert list(dict.fromkeys(called)) == STEPS[2:]


def _record(
    monkeypatch: pytest.MonkeyPatch, home: Any, name: str, step: str, called: list[str]
) -> None:
    """Replace the function in every module of nfilter that has it by one that records its call."""
    import sys

    original: Callable[..., Any] = getattr(home, name)

    def recording(*args: Any, **kwargs: Any) -> Any:
        called.append(step)
        return original(*args, **kwargs)

    for module in [m for key, m in sys.modules.items() if key.split(".")[0] == "nfilter"]:
        if vars(module).get(name) is original:
            monkeypatch.setattr(module, name, recording)
