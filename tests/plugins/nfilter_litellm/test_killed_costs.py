"""Attempts that were running at ``kill -9`` count at their maximum when the run is resumed; answers that were stored count at their cost."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion
from tests.model_server.batches import BatchScript
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

ROWS = 24
CALLS = 4  # at the same time
COST, MOST = 8.0, 16.0  # dollars of an answer, and its maximum
RECIPE = """\
name: killed
answer: exact
chunk: 12
{budget}
models:
  expert: {{use: litellm, model: test, api_base: "{url}", concurrency: {calls}, price: {{prompt: 0, completion: 1000000}}, {more}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base, max_tokens: 16}}
"""


class Bench:
    """A run against a server in this process."""

    def __init__(self, home: Path, server: ModelServer) -> None:
        self.home, self.server = home, server
        rows = [{"id": str(n), "prompt": f"q{n:02}", "response": "?"} for n in range(ROWS)]
        (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def start(
        self,
        *words: str,
        budget: str = "",
        more: str = "attempts: 5",
        calls: int = CALLS,
        **env: str,
    ) -> subprocess.Popen[str]:
        recipe = RECIPE.format(url=self.server.url, budget=budget, more=more, calls=calls)
        (self.home / "r.yaml").write_text(recipe)
        code = (
            "import sys, nfilter_litellm.backend as b; from nfilter_litellm.retry import Retry\n"
            "b.Retry = lambda attempts: Retry(attempts, 2.0, 0.002)\n"
            "b.BatchSettings = lambda make=b.BatchSettings: make(first_delay=0.01)\n"
            "from nfilter.cli import entry; sys.exit(entry(sys.argv[1:]))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, "run", "r.yaml", "--out", "run", *words],
            cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "NFILTER_ALLOW_HOSTS": "127.0.0.1", **env},
        )  # fmt: skip

    def finish(self, *words: str, code: int = 0, **settings: Any) -> str:
        process = self.start(*words, **settings)
        said, _ = process.communicate()
        assert process.returncode == code, said
        return said

    def kill_when(self, there: Callable[[], bool], *words: str, **settings: Any) -> None:
        process = self.start(*words, **settings)
        while not there():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        process.kill()
        process.communicate()

    def usd(self, out: str = "run") -> float:
        """Return the dollars in the journal."""
        return sum(
            self._one(f"SELECT total(usd) FROM {table}", out)
            for table in ("calls", "lost", "results")
        )

    def stored(self, out: str = "run") -> int:
        """Return the number of answers in the journal."""
        return int(self._one("SELECT count(*) FROM calls", out))

    def _one(self, query: str, out: str) -> float:
        path = self.home / out / "journal.db"
        if not path.is_file():
            return 0
        with closing(sqlite3.connect(path)) as journal:
            try:
                (value,) = journal.execute(query).fetchone()
            except sqlite3.OperationalError:  # the tables are not made yet
                return 0
        return float(value)

    def attempts(self, kind: str = "") -> int:
        """Return the number of attempts that the server has seen, of one kind or all."""
        served = [each for kinds in self.server.plan.served.values() for each in kinds]
        return sum(each == kind or not kind for each in served)

    def begun(self, out: str = "run") -> float:
        return float(json.loads((self.home / out / "begun.json").read_text())["usd"])


def eight(_: object) -> Completion:
    return Completion("a b c d e f g h")


Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Make]:
    servers: list[ModelServer] = []

    def make(batches: BatchScript | None = None, **script: Any) -> Bench:
        servers.append(ModelServer(Script(answer=eight, **script), batches=batches))
        return Bench(tmp_path, servers[-1].__enter__())

    yield make
    for server in servers:
        server.__exit__(None, None, None)


def number(content: str) -> int:
    return int(content.rpartition("q")[2][:2])


def test_calls_that_ran_at_a_kill_count_at_their_maximum_and_the_run_says_so(bench: Make) -> None:
    """Six answers are stored, and four calls run when the process is killed."""
    release = threading.Event()
    made = bench(held=lambda text: release if number(text) >= 6 else None)
    made.kill_when(lambda: made.stored() == 6 and made.attempts() == 6 + CALLS)
    assert made.usd() == 6 * COST
    assert made.begun() == 6 * COST + CALLS * MOST
    release.set()
    said = " ".join(made.finish().split())
    assert "$64.00 of calls have no answer in the journal, because the process was killed" in said
    assert made.usd() == ROWS * COST + CALLS * MOST
    runs = json.loads((made.home / "run" / "runs.json").read_text())["runs"]
    assert [(run["ended"], run["usd"]) for run in runs] == [
        ("killed", 6 * COST + CALLS * MOST),
        ("done", (ROWS - 6) * COST),
    ]
    assert "have no answer" not in made.finish()
    assert made.usd() == made.begun() == ROWS * COST + CALLS * MOST


def test_attempts_of_calls_that_waited_for_another_attempt_at_a_kill_count(bench: Make) -> None:
    """Every attempt fails and may be billed; a call that waits for its next attempt has no answer."""
    made = bench(faults={"error": 1.0})
    made.kill_when(lambda: made.attempts() >= 8, more="attempts: 20")
    seen = made.attempts()
    made.server.plan.script.faults.clear()  # type: ignore[attr-defined]
    made.finish()
    lost = made.usd() - ROWS * COST
    # An attempt may have been recorded that the server has not seen.
    assert seen * MOST <= lost <= (seen + CALLS) * MOST


def test_the_cap_holds_over_kills(bench: Make) -> None:
    """Each process is killed while four calls run, until the budget covers no more."""
    made = bench(held=lambda _: threading.Event())
    cap = 3 * CALLS * MOST + MOST / 2
    for turn in range(3):
        seen = made.attempts()
        made.kill_when(
            lambda seen=seen: made.attempts() == seen + CALLS, budget=f"budget: {{usd: {cap}}}"
        )
        assert made.begun() == (turn + 1) * CALLS * MOST
    assert "the budget of $200 is used up" in " ".join(
        made.finish(code=8, budget=f"budget: {{usd: {cap}}}").split()
    )
    assert made.usd() == 3 * CALLS * MOST
    assert made.attempts() == 3 * CALLS


def test_a_kill_in_one_seed_of_several_counts_before_any_seed_runs(bench: Make) -> None:
    release = threading.Event()
    made = bench(held=lambda text: release if number(text) >= 6 else None)
    out = "run/seed-1"
    words = ("--seeds", "1,2")
    made.kill_when(lambda: made.stored(out) == 6 and made.attempts() == 6 + CALLS, *words)
    release.set()
    cap = 6 * COST + CALLS * MOST + MOST - 1
    assert "the budget of" in made.finish(*words, code=8, budget=f"budget: {{usd: {cap}}}")
    assert made.usd(out) == 6 * COST + CALLS * MOST
    made.finish(*words)
    assert made.usd(out) == ROWS * COST + CALLS * MOST
    assert made.usd("run/seed-2") == 0  # its answers are those of seed 1


@pytest.mark.parametrize("place", ["journal.begun:4", "journal.committed:4"])
def test_answers_that_came_and_were_not_stored_count_at_their_cost(bench: Make, place: str) -> None:
    """The process dies around a commit; nothing runs at that time, so that every dollar is known."""
    made = bench()
    process = made.start(NFILTER_FAILPOINT=place, calls=1)
    process.communicate()
    assert process.returncode == -9
    running = made.begun() - made.attempts("ok") * COST
    assert running in (0, MOST - COST, MOST)  # a call may have begun, or have an answer on its way
    said = made.finish()
    lost = made.usd() - ROWS * COST
    again = made.attempts("ok") - ROWS
    assert ("have no answer" in said) == (lost > 0)
    assert again * COST <= lost <= again * COST + MOST


def test_a_batch_on_the_server_is_paid_once(bench: Make) -> None:
    """Its cost is not recorded as begun: the next process reads the batch, and pays then."""
    made = bench(batches=BatchScript(looks=10**9))
    made.kill_when(lambda: made.server.batches.looked > 2, more="batch: true")
    assert not (made.home / "run" / "begun.json").exists()
    made.server.batches.script = BatchScript()
    assert "have no answer" not in made.finish(more="batch: true")
    assert made.usd() == ROWS * COST
    assert made.begun() == ROWS * COST


@pytest.mark.parametrize("place", ["journal.answers:1", "journal.committed:4"])
def test_a_kill_while_a_batch_is_read_costs_nothing_more(bench: Make, place: str) -> None:
    made = bench(batches=BatchScript())
    process = made.start(NFILTER_FAILPOINT=place, more="batch: true")
    process.communicate()
    assert process.returncode == -9
    assert "have no answer" not in made.finish(more="batch: true")
    assert made.usd() == ROWS * COST


def test_damage_of_the_record_is_told_and_a_journal_without_one_is_as_before(bench: Make) -> None:
    release = threading.Event()
    made = bench(held=lambda text: release if number(text) >= 6 else None)
    made.kill_when(lambda: made.stored() == 6 and made.attempts() == 6 + CALLS)
    record = made.home / "run" / "begun.json"
    record.write_text(record.read_text().replace("1", "2"))
    release.set()
    assert "begun.json: is damaged" in "".join(made.finish().split("\n"))
    assert made.usd() == ROWS * COST
    record.unlink()
    assert "have no answer" not in made.finish()
    assert made.usd() == ROWS * COST
    assert not record.exists()  # no call was made


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_at_any_moment_lose_no_cost_and_count_none_twice(bench: Make, kills: int) -> None:
    """The server counts replies; what is paid is at least those, and at most the maximum of each attempt without one."""
    rng = random.Random(5)
    made = bench(latency=0.02, faults={"error": 0.2}, seed=3)
    for turn in range(kills):
        made.server.plan.served.clear()
        if turn:
            (made.home / "run").rename(made.home / f"run-{turn}")
        wanted = rng.randrange(1, ROWS)
        made.kill_when(lambda wanted=wanted: made.attempts() >= wanted, calls=8)
        made.finish(calls=8)
        replies, failed = made.attempts("ok"), made.attempts("error")
        billed = replies * COST + failed * MOST
        # What ran at the kill had no outcome here, whether the server has replied or not.
        assert billed <= made.usd() <= billed + 8 * MOST, turn
