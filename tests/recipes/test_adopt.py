"""A model that a token stage trained takes the place of the cleaned arm's, in its usual folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE = """
name: evolved
seed: 0
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: tiny, split: train, rows: 24, wrong: uniform, noise: {ratio: 0.5, wrong: wrong}}
arms: [raw, cleaned]
encode: {model: student, max_length: 64}
tokens:
  - {use: tokens.self_evolve, rounds: 2, k: 0.6}
train:
  use: adopt
  from: tokens.self_evolve
  with: {use: hf.lora, model: student, rank: 4, epochs: 1, batch_size: 8}
evaluate: {metric: accuracy, max_tokens: 16, limit: 10, source: {use: tiny, split: dev}}
"""


def test_the_last_reference_is_the_cleaned_arm(tools: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    weights = []
    for _ in range(2):  # the second run takes what the first one trained
        done = tools.call("run", "recipe.yaml", "--out", "run", cwd=tmp_path)
        metrics = tools.ran(tmp_path / "run", done).metrics
        assert {arm["rows"] for arm in metrics["arms"].values()} == {10}
        adapter = tmp_path / "run" / "adapters" / "cleaned"
        weights.append((adapter / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    # Every part trains the reference with its own rows, and each is far too few for it; a run that takes it says so again.
    few = {
        said["text"].split(" (")[0] for said in metrics["warnings"] if "optimiser" in said["text"]
    }
    assert few == {
        "02-tokens.self_evolve.train: only 1 optimiser step on 8 rows",
        "02-tokens.self_evolve.train: only 1 optimiser step on 7 rows",
        "train.raw: only 3 optimiser steps on 24 rows",
    }
    models = sorted((tmp_path / "run" / "models").iterdir())
    assert len(models) == 3
    kept = [(model / "adapter_model.safetensors").read_bytes() for model in models]
    assert weights[0] in kept
    # Each began from the one before: only the first has no start, and the adopted one is nobody's start.
    started = [json.loads((model / "training.json").read_text()) for model in models]
    starts, digests = {each["start"] for each in started}, {each["digest"] for each in started}
    assert None in starts
    (last,) = digests - starts
    adopted = json.loads((tmp_path / "run" / "adapters" / "cleaned" / "training.json").read_text())
    assert adopted["digest"] == last
    merged = tools.call("merge", "run", "--out", "merged", cwd=tmp_path)
    assert merged.code == 0, merged.err
