"""Conversations with tools over an API: killed in the middle, they go on where they were.

Every answer of the server has the digest of the messages that it answers, so the journal and the server's counts can be compared
call by call.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion, ToolCall
from tests.kills.conftest import Bench, Outcome
from tests.model_server.faults import Script, content_of
from tests.model_server.server import ModelServer

ROWS = 12
TOKENS = 1000  # of every answer, as many as a call may have
TURNS = 3  # of a reviewer: two calculations and the answer

RECIPE = """\
name: talks
answer: number
chunk: 6
budget: {{usd: {usd}}}
models:
  one: {{use: litellm, model: test/one, api_base: "{url}", concurrency: 4, max_tokens: 1000, price: {{prompt: 0, completion: 1}}}}
  two: {{use: litellm, model: test/two, api_base: "{url}", concurrency: 4, max_tokens: 1000, price: {{prompt: 0, completion: 1}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - use: panel.review
    max_tokens: 1000
    quorum: 2
    reviewers:
      - {{llm: one, name: ann, instructions: You are ann., tools: [calculator]}}
      - {{llm: two, name: bob, instructions: You are bob., tools: [calculator]}}
"""
CALLS = ROWS * 2 * TURNS


def digest(content: str) -> str:
    return "mark" + hashlib.sha256(content.encode()).hexdigest()[:24]


def reviewed(messages: Sequence[Mapping[str, Any]]) -> Completion:
    """Compute the product, add nothing to it, and answer."""
    mark = digest(content_of(messages))
    text = str(messages[0]["content"])
    results = [m["content"].splitlines()[0] for m in messages if m["role"] == "tool"]
    one, other = re.findall(r"(\d+)\*(\d+)", text)[0]
    todo = [f"{one} * {other}", f"{results[0] if results else 0} + 0"]
    if len(results) < len(todo):
        arguments = json.dumps({"expression": todo[len(results)]})
        call = ToolCall("calculator", arguments, f"c{len(results)}")
        return Completion(mark, completion_tokens=TOKENS, tool_calls=(call,))
    code = re.findall(r"^BEGIN (\w+)$", text, re.MULTILINE)[0]
    return Completion(f"{mark}\nAnswer {code}: {results[-1]}", completion_tokens=TOKENS)


class Talks(Bench):
    """A bench whose calls are told apart by their messages."""

    def served(self) -> dict[str, int]:
        return {digest(each): len(kinds) for each, kinds in self.server.plan.served.items()}

    def committed(self, out: str) -> set[str]:
        return set(re.findall(r"mark[0-9a-f]{24}", "".join(self.answers(out))))

    def answers(self, out: str) -> list[str]:
        copy = self.home / "look"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for source in (self.home / out).glob("journal.db*"):
            shutil.copy(source, copy / source.name)
        if not (copy / "journal.db").is_file():
            return []
        with closing(sqlite3.connect(copy / "journal.db")) as connection:
            return [row[0] for row in connection.execute("SELECT answer FROM calls")]

    def write(self, usd: float) -> None:
        recipe = RECIPE.format(url=self.server.url, usd=usd)
        (self.home / "r.yaml").write_text(recipe)

    def spent(self, out: str) -> float:
        found = json.loads((self.home / out / "metrics.json").read_text())
        return float(found["usd"])


@pytest.fixture
def talks(tmp_path: Path) -> Iterator[Talks]:
    rows = [
        {
            "id": f"row-{n}",
            "prompt": f"{n + 11}*{n + 3}",
            "response": str((n + 11) * (n + 3) + n % 2),
        }
        for n in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(Script(answer=reviewed, latency=0.002)) as server:
        bench = Talks(tmp_path, server, CALLS, 8)
        bench.write(usd=100)
        yield bench


def test_a_conversation_that_is_killed_goes_on_where_it_was(talks: Talks) -> None:
    from tests.kills.conftest import at_place, survive

    counts = talks.home / "reached.json"
    assert talks.finish("counted", NFILTER_FAILPOINT=f"count:{counts}") == 0
    assert sum(talks.served().values()) == CALLS
    whole = talks.kept("counted")
    commits = json.loads(counts.read_text())["journal.committed"]
    outcome = Outcome()
    partial = 0
    for number, at in enumerate(sorted({2, commits // 3, 2 * commits // 3})):
        name = f"run-{number}"
        survive(talks, name, at_place("journal.committed", at), whole, outcome)
        partial += talks.spent(name) > 0
    assert outcome.bad == []
    assert outcome.kills == partial == 3


def test_a_budget_that_ends_amid_conversations_is_not_exceeded_and_no_answer_is_lost(
    talks: Talks,
) -> None:
    assert talks.finish("whole") == 0
    whole, price = talks.kept("whole"), talks.spent("whole")
    assert price == pytest.approx(CALLS * TOKENS / 1e6)
    talks.forget()
    for part in (0.3, 0.65):
        talks.write(usd=price * part)
        process = talks.start("small")
        _, error = process.communicate()
        assert process.returncode not in (0, -9)
        *before, line = error.decode().splitlines()
        # Said as soon as the budget ends, if calls are still running then.
        said = "warning: the run ends because of an error: the budget of $"
        assert all(told.startswith(said) for told in before)
        assert len(before) <= 1
        assert line.endswith("raise budget.usd and run the same command to resume")
        served = talks.served()
        assert talks.committed("small") == set(served), "an answer that was paid for is lost"
        assert set(served.values()) == {1}
        assert len(served) == int(CALLS * part), "the budget is neither exceeded nor left over"
    talks.write(usd=price)
    assert talks.finish("small") == 0
    assert list(talks.served().values()) == [1] * CALLS
    assert talks.kept("small") == whole
    assert talks.spent("small") == pytest.approx(price)
