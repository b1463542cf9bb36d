"""Runs of the shipped recipes on the embedded model, each made once for all tests."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Done, call

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "nfilter" / "recipes"
SHORT = (
    "samples.0.max_tokens=8",
    "samples.1.max_tokens=64",
    "samples.3.max_tokens=64",
    "samples.4.max_tokens=64",
)
TINY_PROMPTS = (
    "samples.0.prompt=tiny/answer", "samples.1.prompt=tiny/reason", "samples.1.reflect_prompt=tiny/reflect",
    "samples.3.prompt=tiny/relabel", "samples.4.prompt=tiny/review",
)  # fmt: skip
"""What the embedded model understands, for the stages of the recipes ``robustft`` and ``robustft-official``."""


def sets(*assignments: str) -> list[str]:
    """Return the arguments with ``--set`` before each."""
    return [word for assignment in assignments for word in ("--set", assignment)]


def lines(file: Path) -> list[Any]:
    """Return the values of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_lines(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@dataclass(frozen=True)
class Ran:
    """A successful run: its directory and its figures."""

    path: Path
    metrics: dict[str, Any]


def ran(path: Path, done: Done) -> Ran:
    assert done.code == 0, done.err
    return Ran(path, json.loads((path / "metrics.json").read_text()))


@dataclass(frozen=True)
class Tools:
    """The helpers above."""

    call: Callable[..., Done]
    sets: Callable[..., list[str]]
    lines: Callable[[Path], list[Any]]
    write_lines: Callable[[Path, Sequence[Any]], Path]
    ran: Callable[[Path, Done], Ran]
    ends: Callable[[Path, Done, int], str]
    recipes: Path = RECIPES
    short: tuple[str, ...] = SHORT
    tiny_prompts: tuple[str, ...] = TINY_PROMPTS


def ends_in_an_adapter_or_says_why(run: Path, done: Done, rows: int) -> str:
    """Check that a run of ``rows`` readable rows ended with an adapter or without any row left; return which.

    In both cases every row is recorded as kept, or as dropped with stage and reason, and `explain` agrees.
    """
    kept = {row["id"] for row in lines(run / "cleaned.jsonl")}
    dropped = {row["id"]: row for row in lines(run / "dropped.jsonl")}
    assert len(kept) + len(dropped) == rows
    assert not kept & set(dropped)
    assert all(row["stage"].strip() and row["reason"].strip() for row in dropped.values())
    for row_id in (*kept, *dropped):
        explained = call("explain", run.name, row_id, "--json", cwd=run.parent)
        assert explained.code == 0, explained.err
        story = json.loads(explained.out)
        assert story["id"] == row_id
        if row_id in dropped:
            assert story["status"] == "dropped"
            assert story["stage"] == dropped[row_id]["stage"]
            assert story["reason"] == dropped[row_id]["reason"]
        else:
            assert story["status"] != "dropped"
            reasons = [said["reason"] for event in story["events"] for said in event["decisions"]]
            assert reasons, story
            assert all(reason.strip() for reason in reasons)
    if done.code == 0:
        assert kept
        assert (run / "adapters" / "cleaned" / "adapter_model.safetensors").is_file()
        return "adapter"
    assert done.code == 6, done.err
    assert not kept
    named = re.findall(r"([\w.-]+) dropped (\d+)", done.err)
    counts = Counter(row["stage"] for row in dropped.values())
    assert {stage: int(count) for stage, count in named} == dict(counts)
    assert "no sample is left to train on" in done.err
    assert not (run / "adapters" / "cleaned").exists()
    return "nothing left"


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(call, sets, lines, write_lines, ran, ends_in_an_adapter_or_says_why)


@pytest.fixture(scope="session")
def sums() -> list[dict[str, str]]:
    """Forty sums of two numbers of two digits: prompt, response (every fourth wrong) and truth."""
    rows = []
    for index in range(40):
        left, right = 11 + 37 * index % 89, 12 + 53 * index % 83
        truth = str(left + right)
        wrong = str(left + right + 10 + index % 7)
        rows.append(
            {
                "id": f"sum-{index}",
                "prompt": f"{left}+{right}",
                "response": wrong if index % 4 == 0 else truth,
                "truth": truth,
            }
        )
    return rows


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen multiple-choice rows as the published noisy files have them: options as a JSON list in a cell."""
    import csv

    path = tmp_path_factory.mktemp("questions") / "noisy.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "question", "answer", "options"])
        for n in range(16):
            options = [str(n + 2 + step) for step in range(4)]
            table.writerow([f"q{n}", f"{n}+2", "ABCD"[n % 3], json.dumps(options)])
    return path


SMALLER = ("source.rows=48", "train.epochs=1", "evaluate.limit=40")


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The quickstart on 48 rows, one epoch, forty test rows."""
    path = tmp_path_factory.mktemp("quickstart")
    file = str(RECIPES / "quickstart.yaml")
    return ran(path / "run", call("run", file, "--out", "run", *sets(*SMALLER), cwd=path))


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The same, smaller, with two seeds."""
    path = tmp_path_factory.mktemp("group")
    smaller = sets("source.rows=24", "train.epochs=1", "evaluate.limit=20")
    file = str(RECIPES / "quickstart.yaml")
    done = call("run", file, "--out", "run", "--seeds", "0,1", *smaller, cwd=path)
    return ran(path / "run", done)
