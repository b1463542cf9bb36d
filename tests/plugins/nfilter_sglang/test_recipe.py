"""A recipe from its source to the adapter, with ``sglang`` in place of ``hf``: the same rows, labels and token weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.command_line import call

EXPERTS: dict[str, Any] = {"hf": "student", "sglang": {"use": "sglang", "model": "tiny"}}


def recipe(expert: str) -> dict[str, Any]:
    return {
        "name": expert,
        "answer": "exact",
        "models": {
            "student": {"use": "hf", "model": "tiny", "device": "cpu", "dtype": "float32"},
            "expert": EXPERTS[expert],
        },
        "source": {"use": "tiny", "split": "train", "rows": 10, "noise": {"ratio": 0.5}},
        "samples": [
            {"use": "robustft.answer", "llm": "expert", "max_tokens": 8, "into": "base"},
            {"use": "robustft.reason", "llm": "expert", "prompt": "tiny/reason", "rounds": 0, "max_tokens": 40, "into": "reasoning"},
            {"use": "robustft.check", "views": ["base", "reasoning"], "vote": "any"},
        ],
        "arms": ["cleaned"],
        "encode": {"model": "student", "max_length": 64},
        "tokens": [{"use": "stm.mask", "model": "expert", "above": 4}],
        "train": {"use": "hf.lora", "model": "student", "rank": 2, "epochs": 1},
    }  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"  # read by PEFT
)
def test_a_run_with_sglang_ends_as_one_with_hf_does(tmp_path: Path, sglang: Any) -> None:
    for expert in EXPERTS:
        (tmp_path / f"{expert}.yaml").write_text(yaml.safe_dump(recipe(expert)))
        done = call("run", f"{expert}.yaml", cwd=tmp_path)
        assert done.code == 0, done.err
    one, other = (tmp_path / "runs" / expert for expert in EXPERTS)
    for file in ("cleaned.jsonl", "dropped.jsonl"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    weights = [np.load(run / "tokens" / "weights.npy") for run in (one, other)]
    assert weights[0].size > 100
    assert (weights[0] == weights[1]).all()
    assert 0 < np.count_nonzero(weights[0]) < weights[0].size
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    assert [each["tokens"]["in_loss"] for each in metrics] == [np.count_nonzero(weights[0])] * 2
    assert metrics[0]["views"] == metrics[1]["views"]
    assert "SGLang 0.5.23 on one GPU" in (other / "run.log").read_text()
    (engine,) = sglang.Engine.started
    assert engine.stopped
    # Everything is on record: the same command asks SGLang for nothing.
    assert call("run", "sglang.yaml", cwd=tmp_path).code == 0
    assert len(sglang.Engine.started) == 1


def test_check_names_the_pip_line_and_other_names_of_settings(tmp_path: Path, sglang: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe("sglang")))
    assert call("check", "recipe.yaml", cwd=tmp_path).code == 0
    monkeypatch.setattr("nfilter.models.engines.reader.find_spec", lambda _: None)
    done = call("check", "recipe.yaml", cwd=tmp_path)
    assert done.code == 2
    assert "pip install 'nfilter[sglang]'" in done.err + done.out
    values = recipe("sglang")
    values["models"]["expert"] |= {"tensor_parallel_size": 2, "data_parallel_size": 2}
    file.write_text(yaml.safe_dump(values))
    done = call("check", "recipe.yaml", cwd=tmp_path)
    said = done.err + done.out
    assert "it is called 'gpus' here" in said
    assert "it is called 'copies' here" in said
