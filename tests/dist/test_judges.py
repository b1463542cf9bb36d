"""A distribution that defines capabilities: built, installed and run as its users would."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent / "nfilter-judges"
RECIPE = """\
name: judged
answer: exact
chunk: 200
models:
  reward: {use: judges.reward, log: reward.log}
  nli: {use: judges.nli, usd: 0.01, log: nli.log}
source: {use: jsonl, path: rows.jsonl}
samples:
  - {use: judges.best, least: 1.2}
  - {use: judges.entailed, least: 0.5}
"""


@pytest.fixture
def judged(judges_dist: Path, command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    rows = [{"id": str(n), "prompt": "one two three", "response": text(n)} for n in range(150)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(verb: str, recipe: str = RECIPE) -> Any:
        (tmp_path / "judged.yaml").write_text(recipe)
        quiet = ("--quiet",) if verb == "run" else ()
        return command(verb, "judged.yaml", *quiet, path=[judges_dist], cwd=tmp_path)

    return call


def text(number: int) -> str:
    """Three texts of four have a reward of at least 1.2; of those, the ones of even numbers are entailed."""
    words = "one" if number % 4 == 3 else "one two three" if number % 2 == 0 else "four five"
    return f"{words} {number % 70}"


def calls(folder: Path, name: str) -> list[int]:
    file = folder / f"{name}.log"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def test_it_imports_nothing_of_nfilter_but_its_public_names() -> None:
    import nfilter

    files = sorted((HERE / "src").rglob("*.py"))
    assert len(files) == 4
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "nfilter":
                assert node.module == "nfilter", file
                assert not {alias.name for alias in node.names} - set(nfilter.__all__), file


def test_a_rerun_and_a_changed_stage_call_no_model(
    judged: Callable[..., Any], tmp_path: Path
) -> None:
    assert judged("check").returncode == 0
    done = judged("run")
    assert (done.returncode, done.stderr) == (0, "")
    run = tmp_path / "runs" / "judged"
    texts = [text(n) for n in range(150)]
    kept = [str(n) for n, each in enumerate(texts) if each.startswith("one two")]
    cleaned = (run / "cleaned.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in cleaned] == kept
    # Equal texts are scored once, in calls of at most 64.
    assert sum(calls(tmp_path, "reward")) == len(set(texts))
    assert max(calls(tmp_path, "reward")) <= 64
    before = {name: calls(tmp_path, name) for name in ("reward", "nli")}
    assert judged("run").returncode == 0
    looser = RECIPE.replace("least: 1.2", "least: 0.5").replace("least: 0.5}", "least: 0.4}")
    done = judged("run", looser)
    assert (done.returncode, done.stderr) == (0, "")
    after = {name: calls(tmp_path, name) for name in ("reward", "nli")}
    assert after["reward"] == before["reward"]
    # The second stage sees rows that the first one dropped before: only their pairs are new.
    new = {(n % 70) for n in range(150) if n % 4 == 3}
    assert sum(after["nli"]) - sum(before["nli"]) == len(new)


@pytest.mark.types("add a model that has it under models: {NAME: {use: «»}}")
def test_a_model_without_the_capability_is_refused_before_the_run(
    judged: Callable[..., Any], command: Callable[..., Any], judges_dist: Path
) -> None:
    alone = RECIPE.replace("  reward: {use: judges.reward, log: reward.log}\n", "")
    refused = judged("check", alone.replace("least: 1.2", "model: nli"))
    assert refused.returncode == 2
    assert (
        "judged.yaml:8: samples[0].model: judges.best needs a model with the capability Rewards, and 'nli' (judges.nli) does not "
        "have it (it has: Entails); add a model that has it under models: {NAME: {use: judges.reward}}"
    ) in refused.stderr
    typed = "models:\n  mine: {use: judges.reward}\n"
    mended = alone.replace("models:\n", typed).replace("least: 1.2", "model: mine")
    assert judged("check", mended).returncode == 0
    other = judged("check", RECIPE.replace("least: 1.2", "model: nli"))
    assert "(it has: Entails); use 'reward'" in other.stderr
    shown = command("plugins", "show", "judges.best", path=[judges_dist])
    assert "a model with the capability Rewards" in shown.stdout


def test_its_calls_are_within_the_budget(judged: Callable[..., Any], tmp_path: Path) -> None:
    poor = RECIPE.replace("chunk: 200\n", "chunk: 200\nbudget: {usd: 0.65}\n")
    for _ in range(2):
        done = judged("run", poor)
        assert done.returncode == 8
        assert "the budget of $0.65 is used up: $0.6400 is spent" in done.stderr
        # The pairs that were paid for are stored, and their cost counts in the next run.
        assert calls(tmp_path, "nli") == [64]
    done = judged("run", poor.replace("0.65", "5"))
    assert (done.returncode, done.stderr) == (0, "")
    pairs = {text(n) for n in range(150) if n % 4 != 3}
    assert calls(tmp_path, "nli") == [64, len(pairs) - 64]
