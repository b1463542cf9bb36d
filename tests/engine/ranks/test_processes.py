"""Ranks in processes of their own: killed and started again, on the command line, against a server that counts."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfilter.store.claims import ClaimFolder
from tests.engine.ranks.test_waiting import wait_for
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

PURGE = """\
name: purge
answer: exact
chunk: 7
source: {use: jsonl, path: rows.jsonl}
samples:
  - {use: entp.purge}
"""
TOKENS = """\
name: tokens
answer: exact
chunk: 5
models: {student: {use: hf, model: tiny}}
source: {use: tiny, split: train, rows: 16, steps: true, noise: {tokens: 0.4}}
samples: []
arms: []
encode: {model: student, max_length: 128}
tokens:
  - {use: tokens.excess_loss, warmup: 0.5}
  - {use: tokens.keep_top, k: 0.6}
  - {use: stm.mask, above: 2.5}
train: {use: hf.lora, model: student, rank: 2, max_steps: 2, batch_size: 4}
"""
ROBUSTFT = """\
name: robustft
answer: exact
chunk: 4
models: {student: {use: hf, model: tiny}, expert: student, encoder: student}
source: {use: tiny, split: train, rows: 18, wrong: uniform, noise: {ratio: 0.5, wrong: wrong}}
samples:
  - {use: robustft.neighbors, encoder: encoder, into: neighbors}
  - {use: robustft.reason, llm: expert, prompt: tiny/reason, rounds: 0, max_tokens: 40, into: reasoning}
  - {use: robustft.check, views: [reasoning, neighbors], vote: any, sure: {view: reasoning}}
  - {use: robustft.relabel, llm: expert, encoder: encoder, prompt: tiny/relabel, k: 3, max_tokens: 40,
     sure: {view: reasoning}, into: context}
  - {use: robustft.review, llm: expert, prompt: tiny/review, views: [context, reasoning], max_tokens: 40}
  - {use: robustft.select, by: review, keep: 0.5}
"""
SERVER = """\
name: server
answer: number
chunk: 5
{budget}
models:
  expert: {{use: litellm, model: test/sums, api_base: "{url}", concurrency: 2, price: {{prompt: {price}, completion: {price}}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
  - {{use: robustft.check, views: [base], vote: all}}
"""


def add(messages: Sequence[Mapping[str, Any]]) -> str:
    left, right = re.findall(r"(\d+)\+(\d+)", str(messages[-1]["content"]))[-1]
    return f"The answer is {int(left) + int(right)}"


def write_rows(home: Path, count: int) -> None:
    rows = [
        {"id": f"row-{n}", "prompt": f"{n}+{n % 7}", "response": str(n + n % 7 + (n % 3 == 0))}
        for n in range(count)
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(Script(answer=add, latency=0.005)) as started:
        yield started


def asked(server: ModelServer) -> list[int]:
    """How often the server was asked each question, sorted."""
    return sorted(len(kinds) for kinds in server.plan.served.values())


def alone(processes: Any, out: str = "one") -> None:
    process = processes.start(out)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error


def test_a_rank_that_is_killed_goes_on_where_it_was(processes: Any, results_of: Any) -> None:
    home = processes.home
    (home / "r.yaml").write_text(PURGE)
    write_rows(home, 40)
    alone(processes)
    assert processes.ranks("three", 3, {1: "chunk.samples:2"}) == [-9]
    assert results_of(home / "three") == results_of(home / "one")


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param({2: "chunk.samples:2"}, id="another"),
        pytest.param({0: "chunk.samples:7"}, id="rank 0 in a stage", marks=pytest.mark.slow),
        pytest.param({0: "stage.finished:2"}, id="rank 0 after a stage", marks=pytest.mark.slow),
    ],
)
def test_no_call_to_a_free_server_is_made_twice(
    processes: Any, server: ModelServer, results_of: Any, kill: dict[int, str]
) -> None:
    home = processes.home
    (home / "r.yaml").write_text(SERVER.format(url=server.url, price=0, budget=""))
    write_rows(home, 30)
    assert processes.ranks("three", 3, kill) == [-9]
    assert asked(server) == [1] * 30, server.plan.served
    server.plan.served.clear()
    alone(processes)
    assert results_of(home / "three") == results_of(home / "one")
    calls = [
        json.loads((home / out / "manifest.json").read_text())["calls"] for out in ("one", "three")
    ]
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param({}, id="none"),
        pytest.param({1: "calls.claimed:2"}, id="before its calls"),
        pytest.param({1: "calls.answered:1"}, id="before its answers are published"),
        pytest.param({0: "calls.answered:1"}, id="rank 0", marks=pytest.mark.slow),
    ],
)
def test_equal_calls_of_several_ranks_are_made_once(
    processes: Any, server: ModelServer, results_of: Any, kill: dict[int, str]
) -> None:
    home = processes.home
    (home / "r.yaml").write_text(SERVER.format(url=server.url, price=0, budget=""))
    rows = [
        {"id": f"row-{n}", "prompt": f"{n % 12}+1", "response": str(n % 12 + 1 + (n % 3 == 0))}
        for n in range(40)
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert processes.ranks("two", 2, kill) == [-9 for _ in kill]
    assert asked(server) == [1] * 12, server.plan.served
    server.plan.served.clear()
    alone(processes)
    assert results_of(home / "two") == results_of(home / "one")


def test_calls_that_cost_money_are_made_by_rank_0_within_the_budget(
    processes: Any, server: ModelServer
) -> None:
    home = processes.home
    write_rows(home, 20)
    recipe = SERVER.format(url=server.url, price=1000, budget="budget: {usd: 0.5}")
    (home / "r.yaml").write_text(recipe)
    second = processes.start("paid", "--rank", "1", "--world", "2")
    wait_for((home / "paid/ranks/1/lock").exists)  # rank 1 is there before the run fails
    first = processes.start("paid", "--rank", "0", "--world", "2")
    _, error = first.communicate(timeout=240)
    assert first.returncode == 8, error
    assert "the budget of $0.5 is used up" in error
    _, error = second.communicate(timeout=240)
    assert second.returncode == 1
    assert "rank 0 failed: BudgetError" in error
    once = len(asked(server))
    assert 0 < once < 20
    (home / "r.yaml").write_text(recipe.replace("usd: 0.5", "usd: 100"))
    assert processes.ranks("paid", 2) == []
    assert asked(server) == [1] * 20
    assert (
        "runs on rank 0 alone, because model 'expert' costs money"
        in (home / "paid/run.log").read_text()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "world", "kill"),
    [(TOKENS, 2, {1: "chunk.decisions:2"}), (TOKENS, 3, {}), (ROBUSTFT, 3, {})],
    ids=["tokens, killed", "tokens", "robustft"],
)
def test_local_models_give_the_results_of_one_process(
    processes: Any, results_of: Any, recipe: str, world: int, kill: dict[int, str]
) -> None:
    (processes.home / "r.yaml").write_text(recipe)
    alone(processes)
    assert processes.ranks("many", world, kill) == [-9 for _ in kill]
    assert results_of(processes.home / "many") == results_of(processes.home / "one")


def test_an_interrupt_ends_a_rank_that_waits(processes: Any) -> None:
    (processes.home / "r.yaml").write_text(PURGE)
    write_rows(processes.home, 4)
    process = processes.start("two", "--rank", "1", "--world", "2")
    journal = processes.home / "two/ranks/1/journal.db"
    while not journal.exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted; run the same command to resume"


def test_an_interrupt_ends_a_rank_that_waits_for_a_call_of_another(processes: Any) -> None:
    """Rank 0 makes the call that rank 1 needs too, and its server answers only when rank 1 has ended."""
    home = processes.home
    rows = [
        {"id": f"row-{n}", "prompt": f"{n % 6}+1", "response": str(n % 6 + 1)} for n in range(10)
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answered = threading.Event()
    script = Script(answer=add, held=lambda text: answered if "0+1" in text else None)
    with ModelServer(script) as server:
        (home / "r.yaml").write_text(SERVER.format(url=server.url, price=0, budget=""))
        first = processes.start("two", "--rank", "0", "--world", "2")
        wait_for(lambda: any("0+1" in text for text in server.plan.served))
        second = processes.start("two", "--rank", "1", "--world", "2")
        folder = home / "two/ranks/calls/01-robustft.answer"
        # It publishes its own answer before it waits.
        wait_for((folder / "answers-1").exists)
        second.send_signal(signal.SIGINT)
        _, error = second.communicate(timeout=240)
        assert second.returncode == 130, error
        assert error.splitlines()[-1] == "interrupted; run the same command to resume"
        assert ClaimFolder(folder, 1).unsettled(2) == []
        assert not answered.is_set()
        answered.set()
        first.send_signal(signal.SIGINT)
        _, error = first.communicate(timeout=240)
        assert first.returncode == 130, error
        assert processes.ranks("two", 2) == []
        assert asked(server) == [1] * 6, server.plan.served


@pytest.mark.types("leave out --seeds, and start one run per seed")
@pytest.mark.types("leave out --fresh and choose another --out")
@pytest.mark.types("use one of the two: «», or start without torchrun")
@pytest.mark.types("leave out --rank and --world")
def test_what_is_not_combined_with_ranks(processes: Any) -> None:
    (processes.home / "r.yaml").write_text(PURGE)
    write_rows(processes.home, 4)
    started = {
        word: processes.start("out", "--rank", "1", "--world", "2", *word.split(), env=env)
        for word, env in (
            ("--seeds 0,1", {}),
            ("--fresh", {}),
            ("--quiet", {"RANK": "0", "WORLD_SIZE": "2"}),
        )
    }
    errors = {}
    for word, process in started.items():
        _, errors[word] = process.communicate(timeout=240)
        assert process.returncode == 2
    assert "--world 2 runs one seed; leave out --seeds" in errors["--seeds 0,1"]
    assert "leave out --fresh and choose another --out" in errors["--fresh"]
    assert "use one of the two: leave out --rank and --world" in errors["--quiet"]
    seed = processes.start("runs/seed-1", "--set", "seed=1")
    _, error = seed.communicate(timeout=240)
    assert seed.returncode == 0, error
