"""What turns hold, from a file to tokens: carried into the template, or out with the reason; counted and said everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.preview import preview
from nfilter.engine.run import run
from nfilter.recipe.check import check
from nfilter.recipe.model import load
from nfilter.registry.loading import load as load_plugins
from nfilter.report.explain import explain
from nfilter.store.tokens import read_tokens

ROWS: list[dict[str, Any]] = [
    {"id": "light", "messages": [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "99", "weight": 0},
                                 {"role": "user", "content": "Try again."}, {"role": "assistant", "content": "2", "weight": 0.5}]},
    {"id": "call", "messages": [{"role": "user", "content": "Weather in Rome?"}, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city":"Rome"}'}}]}]},
    {"id": "thought", "messages": [{"role": "user", "content": "What is 2 plus 2?"}, {"role": "assistant", "content": "4", "reasoning_content": "two and two"}]},
    {"id": "image", "messages": [{"role": "user", "content": "What is it?", "images": ["a.png"]}, {"role": "assistant", "content": "5"}]},
]  # fmt: skip
RECIPE = """
name: held
models: {s: {use: hf, model: tiny}}
source: {use: jsonl, path: data.jsonl}
samples:
  - {use: robustft.random, keep: 1.0}
encode: {model: s, max_length: 128}
tokens:
  - {use: tokens.random, k: 1.0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("held")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "recipe.yaml").write_text(RECIPE)
    plugins = load_plugins()
    return load(folder / "recipe.yaml", plugins), plugins


IMAGES = "1 of 4 readable row holds the field 'images' in messages"
CALLS = "does not support tool calls"
THOUGHTS = "does not support reasoning"


def test_check_counts_and_warns(recipe: Any) -> None:
    loaded, plugins = recipe
    found = check(loaded, plugins, site_of(loaded, plugins), prompts_of(loaded, plugins))
    said = "\n".join(found.warnings)
    assert not found.faults
    assert IMAGES in said
    assert "tool calls in 1 of 4 rows, thoughts in 1 of 4 rows: training drops a row" in said
    assert "1 of 4 rows hold turns of weight 0" in said


def test_lint_counts_and_warns(recipe: Any) -> None:
    found = preview(*recipe)
    said = "\n".join(found.warnings)
    assert IMAGES in said
    assert found.figures["all_masked"]["template"] == 2
    assert any(CALLS in line and "1 row:" in line and "'call'" in line for line in found.warnings)
    assert any(THOUGHTS in line and "1 row:" in line for line in found.warnings)


def test_run_carries_counts_and_names_each_row(recipe: Any, tmp_path: Path) -> None:
    loaded, plugins = recipe
    done = run(loaded, plugins, tmp_path / "out")
    assert done.metrics["samples"]["not_carried"] == {"the field 'images' in messages": 1}
    log = (tmp_path / "out" / "run.log").read_text()
    assert all(words in log for words in (IMAGES, CALLS, THOUGHTS))
    dropped = [
        json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()
    ]
    assert [(row["id"], row["row"]) for row in dropped] == [("call", ROWS[1]), ("thought", ROWS[2])]
    assert CALLS in dropped[0]["reason"]
    assert THOUGHTS in dropped[1]["reason"]
    assert explain(tmp_path / "out", "call").label == '(calls w {"city":"Rome"})'
    assert explain(tmp_path / "out", "thought").label == "(thought: two and two)\n4"
    kept = [
        json.loads(line) for line in (tmp_path / "out" / "cleaned.jsonl").read_text().splitlines()
    ]
    assert kept == [ROWS[0], ROWS[3]]
    light = next(s for s in read_tokens(tmp_path / "out" / "tokens")[0] if s.id == "light")
    assert set(light.turn[light.weights > 0].tolist()) == {3}
    np.testing.assert_array_equal(np.unique(light.weights), np.float32([0, 0.5]))
