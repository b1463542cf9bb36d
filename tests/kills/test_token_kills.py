"""``kill -9`` inside a token stage, then the same command: it goes on, and no pass that is on disk is made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nfilter.store.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
ROWS = 70
RECIPE = f"""\
name: killed
answer: exact
chunk: 30
models: {{student: {{use: hf, model: tiny}}}}
source: {{use: tiny, split: train, rows: {ROWS}, noise: {{tokens: 0.3}}}}
encode: {{model: student, max_length: 96}}
tokens:
  - {{use: stm.mask, above: 4.0}}
  - {{use: xtf.reasoning, cap: none}}
"""
# Every pass of the attention is printed; the process ends in the middle of one of them.
RUN = """\
import os, signal, sys
from nfilter.cli import entry
from nfilter_hf import attention
kill_at, passes, score = int(sys.argv.pop(1)), [], attention._reduced_layers
def counting(module, sample, reduce, layers):
    passes.append(sample.id)
    if len(passes) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    print("pass", sample.id, flush=True)
    return score(module, sample, reduce, layers)
attention._reduced_layers = counting
sys.exit(entry(sys.argv[1:]))
"""


def run(home: Path, out: str, kill_at: int = -1, **env: str) -> tuple[int, list[str]]:
    """The exit code of a run, and the samples whose attention it computed."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(kill_at), "run", "r.yaml", "--out", out, "--quiet"],
        cwd=home, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins"))), **env},
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr
    return done.returncode, [line[5:] for line in done.stdout.splitlines() if line[:5] == "pass "]


def left(out: Path) -> dict[str, Any]:
    """All that the run leaves for others."""
    stages = [
        f for _, stage in RunDirectory(out).token_stages() for f in stage.directory.rglob("*")
    ]
    files = [*stages, *(out / "tokens").iterdir(), out / "cleaned.jsonl", out / "dropped.jsonl"]
    found: dict[str, Any] = {
        str(file.relative_to(out)): file.read_bytes()
        for file in files
        if file.suffix in (".npz", ".npy", ".jsonl")
    }
    return {**found, "metrics": json.loads((out / "metrics.json").read_text())}


def test_a_run_killed_inside_attention_goes_on_behind_what_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    code, every = run(tmp_path, "whole")
    assert code == 0
    assert len(every) == len(set(every))
    assert ROWS - 10 < len(every) <= ROWS  # equal samples are read once
    # 49 passes are done; at most the last 32 are not on disk, on a slow machine fewer.
    code, before = run(tmp_path, "killed", kill_at=50)
    assert (code, before) == (-9, every[:49])
    code, rest = run(tmp_path, "killed")
    assert (code, rest) == (0, every[-len(rest) :])
    assert len(every) - 49 <= len(rest) < len(every) - 49 + 32

    whole = left(tmp_path / "whole")
    assert len(whole) > 20
    assert left(tmp_path / "killed") == whole
    assert whole["metrics"]["tokens"]["stages"]["2-xtf.reasoning"]["masked"] > 0
