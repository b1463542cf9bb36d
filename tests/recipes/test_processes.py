"""Whole runs with the embedded model that are killed, or shared by two processes: the adapters are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
name: shared
seed: 0
answer: number
models:
  student: {use: hf, model: tiny}
source: {use: jsonl, path: train.jsonl}
tokens:
  - {use: tokens.excess_loss, warmup: 0.5}
  - {use: tokens.keep_top, by: excess, k: 0.6}
train: {use: hf.lora, rank: 4, epochs: 3, batch_size: 4, dropout: 0.0, loss: dft, checkpoint_every: 1}
evaluate: {metric: accuracy, source: {use: jsonl, path: train.jsonl}, limit: 4}
"""
LIMIT = 900
"""Seconds that a whole run may take on a machine that is shared."""
ADAPTERS = ("models/*", "adapters/cleaned")
pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rows = [(11 + 7 * i % 80, 12 + 5 * i % 70) for i in range(40)]
    lines = [json.dumps({"prompt": f"{a}+{b}", "response": str(a + b)}) + "\n" for a, b in rows]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def command(home: Path, out: str, *launcher: str, **options: Any) -> subprocess.Popen[str]:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    words = launcher or (sys.executable,)
    return subprocess.Popen(
        [*words, "-m", "nfilter", "run", "r.yaml", "--out", out, "--json"],
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    figures: dict[str, Any] = json.loads(out)
    return figures


def only(home: Path, run: str, pattern: str) -> Path:
    (found,) = (home / run).glob(pattern)
    return found


def kill_at_checkpoint(process: subprocess.Popen[str], home: Path, run: str, pattern: str) -> None:
    """Kill the process, and nothing of it is asked, when a training under ``pattern`` has a checkpoint."""
    end = time.monotonic() + LIMIT
    while not list((home / run).glob(f"{pattern}/checkpoint/training.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list((home / run).glob(f"{pattern}/checkpoint/training.safetensors"))


def test_a_run_killed_in_two_trainings_ends_in_the_bytes_of_an_unbroken_one(home: Path) -> None:
    figures = finished(command(home, "whole"))
    for pattern in ADAPTERS:  # a reference that a token stage trains, then the arm
        kill_at_checkpoint(command(home, "broken"), home, "broken", pattern)
    again = finished(command(home, "broken"))
    for pattern in ADAPTERS:
        whole, broken = (only(home, run, pattern) for run in ("whole", "broken"))
        name = "adapter_model.safetensors"
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
        assert not (broken / "checkpoint").exists()
        one, other = (json.loads((at / "training.json").read_text()) for at in (whole, broken))
        assert (one["resumed_from"], other["resumed_from"] >= 1) == (None, True)
        assert one["losses"] == other["losses"]
    assert again["tokens"] == figures["tokens"]
    assert again["arms"]["cleaned"]["mean"] == figures["arms"]["cleaned"]["mean"]
    assert (home / "broken" / "run.log").read_text().count("training resumes after step") == 2


LAUNCHERS = {
    "accelerate": (
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    ),
    "torchrun": (
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", "2", "--standalone"),
    ),
}


@pytest.mark.types("start them with torchrun")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_of_a_launcher_end_in_the_adapters_of_one(home: Path, launcher: str) -> None:
    figures = finished(command(home, "one"))
    shared = finished(command(home, "two", *LAUNCHERS[launcher]))
    for pattern in ADAPTERS:
        one, two = (only(home, run, pattern) for run in ("one", "two"))
        left, right = (load_file(path / "adapter_model.safetensors") for path in (one, two))
        for name, tensor in left.items():
            np.testing.assert_allclose(tensor, right[name], rtol=0, atol=1e-5)
        assert json.loads((two / "training.json").read_text())["processes"] == 2
    assert shared["arms"]["cleaned"]["mean"] == figures["arms"]["cleaned"]["mean"]
    rows = [(home / run / "cleaned.jsonl").read_text() for run in ("one", "two")]
    assert rows[0] == rows[1]
    assert (home / "two" / "run.log").read_text().count("source: 40 rows") == 1


def test_a_run_that_fails_under_a_launcher_ends_both_processes(home: Path) -> None:
    (home / "train.jsonl").write_text("nothing that can be read\n")
    process = command(home, "failed", *LAUNCHERS["torchrun"])
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert "train.jsonl: no row can be read" in err
    assert not (home / "failed").exists()
