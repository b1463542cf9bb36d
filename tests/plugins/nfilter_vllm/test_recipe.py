"""A recipe from its source to the adapter, with ``vllm`` in place of ``hf``: the same rows, labels and token weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_line import call
from tests.engine_cases import check_run, recipe

MODEL = {"use": "vllm", "model": "tiny"}


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"  # read by PEFT
)
def test_a_run_with_vllm_ends_as_one_with_hf_does(tmp_path: Path, vllm: Any) -> None:
    folder = check_run(tmp_path, "vllm")
    assert "vLLM 0.33.0 on one GPU" in (folder / "run.log").read_text()
    (engine,) = vllm.LLM.started
    assert engine.llm_engine.engine_core.stopped
    # Everything is on record: the same command asks vLLM for nothing.
    assert call("run", "vllm.yaml", cwd=tmp_path).code == 0
    assert len(vllm.LLM.started) == 1


def test_check_names_the_pip_line_and_other_names_of_settings(tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe("vllm", MODEL)))
    assert call("check", "recipe.yaml", cwd=tmp_path).code == 0
    monkeypatch.setattr("nfilter.models.engines.reader.find_spec", lambda _: None)
    done = call("check", "recipe.yaml", cwd=tmp_path)
    assert done.code == 2
    assert "pip install 'nfilter[vllm]'" in done.err + done.out
    values = recipe("vllm", MODEL)
    values["models"]["expert"] = MODEL | {"tensor_parallel_size": 2, "data_parallel_size": 2}
    file.write_text(yaml.safe_dump(values))
    done = call("check", "recipe.yaml", cwd=tmp_path)
    said = done.err + done.out
    assert "it is called 'gpus' here" in said
    assert "executor: {use: local, workers: 2, gpus: 1}" in said
