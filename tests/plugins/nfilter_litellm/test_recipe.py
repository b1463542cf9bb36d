"""A recipe run from the command line with an API model as its expert: cleaned rows, output, and no key anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model_server.faults import Phase, Script, add
from tests.model_server.server import ModelServer

CANARY = "sk-canary-4f1d9a77c2e84b"
ROWS = 60
RECIPE = """\
name: api
answer: number
models:
  expert: {{use: litellm, model: test/sums, api_base: "{url}", api_key_env: CANARY_KEY, attempts: 4{more}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
  - {{use: robustft.check, views: [base], vote: all}}
  - {{use: robustft.select, by: base, keep: 0.5}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Write a dataset of sums in which every third label is wrong."""
    rows = [
        {"prompt": f"{10 + n}+{n}", "response": str(10 + 2 * n + (n % 3 == 0))} for n in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def everything(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_recipe_runs_against_a_faulty_server_and_reruns_without_a_call(
    home: Path, command: Callable[..., Any]
) -> None:
    script = Script(
        answer=add, key=CANARY, faults={"error": 0.04, "limited": 0.02, "reset": 0.04, "refusal": 0.05}
    )  # fmt: skip
    with ModelServer(script) as server:
        (home / "r.yaml").write_text(RECIPE.format(url=server.url, more=""))
        done = command("run", "r.yaml", "--out", "out", cwd=home, CANARY_KEY=CANARY)
        assert done.returncode == 0, done.stderr
        fact = f"model expert: test/sums over aiohttp (api_base is set) at {server.url}; key from CANARY_KEY"
        assert fact in (home / "out" / "run.log").read_text()
        check = command("check", "r.yaml", cwd=home, CANARY_KEY=CANARY)
        assert fact in check.stdout
        cleaned = [json.loads(line) for line in (home / "out" / "cleaned.jsonl").read_text().splitlines()]  # fmt: skip
        served = server.plan.report()
        again = command("run", "r.yaml", "--out", "out", cwd=home, CANARY_KEY=CANARY)
        assert again.returncode == 0, again.stderr
        assert server.plan.report() == served
    assert served["conversations"] == ROWS
    refused = {content for content, kinds in server.plan.served.items() if "refusal" in kinds}
    assert refused
    wrong = sum(eval(row["prompt"]) != int(row["response"]) for row in cleaned)
    # The wrong labels and the refused questions are flagged: a refused question is not kept as if it had been checked.
    flagged = {n for n in range(ROWS) if n % 3 == 0} | {
        n for n in range(ROWS) if any(f"{10 + n}+{n}" in content for content in refused)
    }
    assert len(cleaned) == ROWS - len(flagged) + len(flagged) // 2
    assert wrong <= len(flagged) // 2
    assert server.keys == {CANARY}
    for text in (everything(home), done.stdout.encode(), done.stderr.encode(), check.stdout.encode()):  # fmt: skip
        assert CANARY.encode() not in text
    assert b"CANARY_KEY" in (home / "out" / "recipe.lock.yaml").read_bytes()


def test_a_rejected_key_ends_the_run_and_is_written_nowhere(
    home: Path, command: Callable[..., Any]
) -> None:
    with ModelServer(Script(answer=add, key="another")) as server:
        (home / "r.yaml").write_text(RECIPE.format(url=server.url, more=""))
        done = command("run", "r.yaml", "--out", "out", cwd=home, CANARY_KEY=CANARY)
        assert sum(server.plan.counts.values()) <= 3 + 20
    assert done.returncode == 5
    assert "3 consecutive calls failed, the last with: 401 invalid_api_key" in done.stderr
    assert "Traceback" not in done.stderr
    for text in (everything(home), done.stdout.encode(), done.stderr.encode()):
        assert CANARY.encode() not in text
    assert not (home / "out" / "cleaned.jsonl").exists()


def test_check_reports_missing_requirements_and_both_remedies(
    home: Path, command: Callable[..., Any]
) -> None:
    text = RECIPE.format(url="http://localhost:1/v1", more=", logprobs: false")
    text += "  - {use: robustft.relabel, llm: expert, encoder: expert}\n"
    (home / "r.yaml").write_text(text)
    done = command("check", "r.yaml", cwd=home)
    assert done.returncode == 2
    assert "the environment variable CANARY_KEY is not set; type: export CANARY_KEY=YOUR-KEY" in done.stderr  # fmt: skip
    assert "robustft.relabel needs log-probabilities of what was generated, and 'expert' (litellm) gives none" in done.stderr  # fmt: skip
    assert "{use: hf, ...}" in done.stderr
    assert "rank: agreement" in done.stderr


def test_without_logprobs_agreement_ranks(home: Path, command: Callable[..., Any]) -> None:
    """The second remedy on a server without logprobs: five answers per question."""
    text = RECIPE.format(url="URL", more=", logprobs: false")
    text = text.replace("into: base}}", "into: base}").replace("into: base}", "into: base, samples: 5, temperature: 0.7}")  # fmt: skip
    text = text.replace("keep: 0.5}", "keep: 0.5, rank: agreement}")
    with ModelServer(Script(answer=add, key=CANARY, logprobs=False)) as server:
        (home / "r.yaml").write_text(text.replace("URL", server.url))
        done = command("run", "r.yaml", "--out", "out", cwd=home, CANARY_KEY=CANARY)
    assert done.returncode == 0, done.stderr
    assert sum(server.plan.counts.values()) == 5 * ROWS
    dropped = [json.loads(line) for line in (home / "out" / "dropped.jsonl").read_text().splitlines()]  # fmt: skip
    assert len(dropped) == ROWS // 3 // 2
    assert all("by base agreement 1;" in row["reason"] for row in dropped)


def test_answers_before_an_error_are_not_repeated(home: Path, command: Callable[..., Any]) -> None:
    """The key becomes invalid in the middle of a chunk; with a valid one the same command continues."""
    shut = Phase(10, 1e9, "unauthorized")
    script = Script(answer=add, phases=[shut], by_calls=True, together=2)
    with ModelServer(script) as server:
        (home / "r.yaml").write_text(RECIPE.format(url=server.url, more=", concurrency: 2"))
        done = command("run", "r.yaml", "--out", "out", cwd=home, CANARY_KEY=CANARY)
        assert done.returncode == 5
        answered = {text for text, kinds in server.plan.served.items() if kinds == ["ok"]}
        assert len(answered) == 10
        server.plan.script = Script(answer=add)
        again = command("run", "r.yaml", "--out", "out", cwd=home, CANARY_KEY=CANARY)
        assert again.returncode == 0, again.stderr
        assert [text for text in answered if len(server.plan.served[text]) > 1] == []
    assert len((home / "out" / "cleaned.jsonl").read_text().splitlines()) == 40 + 10
