"""A recipe with ratings from a column: rated, curated, the rare half kept, on the embedded model."""

import json

import numpy as np
import pytest

from tests.command_line import call

RECIPE = """
name: rated
seed: 0
answer: exact
models:
  student: {use: hf, model: tiny}
  encoder: student
source: {use: jsonl, path: rows.jsonl}
samples:
  - {use: entp.rate, column: quality}
  - {use: entp.curate, encoder: encoder, k: 5, noise: NOISE, keep: low, split: 3}
  - {use: entp.long_tail, encoder: encoder, by: curated, keep: 0.5, k: 5}
"""
RATED = {"easy": 3, "hard": 9}


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def home(tmp_path):
    """Sums are rated low and words high; every tenth rating is wrong; some cells hold none."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(80):
        kind = "easy" if n % 2 else "hard"
        text = (
            f"{n}+{rng.integers(100)}"
            if kind == "easy"
            else f"reverse the word {'abcdefgh'[n % 8] * 2}{n}"
        )
        quality = RATED["hard" if kind == "easy" else "easy"] if n % 10 == 3 else RATED[kind]
        rows.append({"id": f"r{n}", "prompt": text, "response": str(n), "quality": quality})
    rows[0]["quality"] = None
    rows[1]["quality"] = 12
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def run(home, noise, *more):
    (home / "r.yaml").write_text(RECIPE.replace("NOISE", noise), encoding="utf-8")
    return call("run", "r.yaml", "--out", "run", *more, cwd=home)


def test_ratings_from_a_column_need_no_model_that_answers(home):
    code, _, err = run(home, "0.1")
    assert code == 0, err
    metrics = json.loads((home / "run" / "metrics.json").read_text())
    kept, dropped = lines(home / "run" / "cleaned.jsonl"), lines(home / "run" / "dropped.jsonl")
    assert len(kept) + len(dropped) == 80
    reasons = {row["id"]: row["reason"] for row in dropped}
    assert "no rating; keep: low" in reasons["r0"]
    assert "no rating; keep: low" in reasons["r1"]
    # What a sum was wrongly rated is put right, so that the sum stays in the low half.
    halves = {row["id"] for row in kept} | {
        key for key, why in reasons.items() if "long tail" in why
    }
    easy = {f"r{n}" for n in range(3, 80, 2)}
    assert len(halves & easy) > 0.9 * len(easy)
    assert len(halves - easy) < 5
    assert len(kept) == len(halves) // 2
    report = json.dumps(metrics)
    assert '"noise_rate"' in report
    assert '"score_of_kept"' in report


def test_few_ratings_are_not_trusted_and_the_run_says_what_to_type(home):
    code, out, err = run(home, "auto")
    assert code == 0, err
    assert "noise: 0.2" in out + err + (home / "run" / "run.log").read_text()


def test_check_and_plan_know_the_stages(home):
    (home / "r.yaml").write_text(RECIPE.replace("NOISE", "auto"), encoding="utf-8")
    assert call("check", "r.yaml", cwd=home)[0] == 0
    code, _, err = call("check", "r.yaml", "--set", "samples.0={use: entp.rate}", cwd=home)
    assert code == 2
    assert "llm: NAME, or column: NAME" in err
    code, out, err = call(
        "plan", "r.yaml", "--set", "samples.0={use: entp.rate, llm: student}", cwd=home
    )
    assert code == 0, err
    assert "entp.rate" in out
    code, _, err = call("check", "r.yaml", "--set", "samples.1.by=ratng", cwd=home)
    assert code == 2
    assert "ratng" in err
