"""The comparison of speeds with a real model runs on any folder with one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nfilter_tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "model_speed.py"
MODEL = Path(nfilter_tiny.__file__).parent / "model"


def test_it_compares_training_scoring_and_generation_in_one_run(tmp_path: Path) -> None:
    rows = [
        {"question": f"what is {i} plus 2 ?", "options": ["3", "4"], "answer": "A"}
        for i in range(4)
    ]
    data, out = tmp_path / "rows.jsonl", tmp_path / "figures.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [
        sys.executable, str(SCRIPT), "--model", str(MODEL), "--train", str(data), "--generate", str(data), "--dtype",
        "float32", "--rows", "4", "--batch", "2", "--rounds", "1", "--new", "4", "--threads", "1", "--out", str(out),
        "--ways", "nfilter", "peft", "plain", "transformers",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))
    ways = {name: set(figures[name]["tokens"]) for name in ("training", "scoring", "generation")}
    assert ways == {
        "training": {"nfilter", "peft"},
        "scoring": {"nfilter", "plain"},
        "generation": {"nfilter", "transformers"},
    }
    for name, found in ways.items():
        assert all(figures[name]["nfilter_times_as_fast"][way] > 0 for way in found)
    assert figures["about"]["dtype"] == "float32"
    assert "| peft |" in done.stdout
