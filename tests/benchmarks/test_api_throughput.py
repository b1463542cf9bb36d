"""What the comparison of API clients counts and prints, without the other tools."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from benchmarks import api_adaptive, api_kills, api_throughput
from benchmarks.peers import running
from benchmarks.peers.asking import questions
from tests.model_server.faults import Script, answer
from tests.model_server.server import ModelServer


def ask(url: str, text: str | None) -> str:
    messages = [{"role": "user", "content": text}] if text is not None else []
    body = json.dumps({"model": "test", "messages": messages}).encode()
    with urlopen(Request(f"{url}/chat/completions", body), timeout=10) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


def served(**changed: object) -> dict[str, object]:
    counts = {"ok": 64}
    return {
        "conversations": 64, "attempts": 64, "empty": 0, "span": 0.3, "counts": counts, "most_in_flight": 32, **changed
    }  # fmt: skip


def test_the_server_tells_span_and_replies_of_the_calls_that_say_something() -> None:
    with ModelServer(Script(latency=0.05)) as server:
        ask(server.url, None)
        assert server.report()["span"] == 0
        for text in questions(3):
            ask(server.url, text)
        report = server.report()
    assert (report["replies"], report["empty"], report["attempts"]) == (3, 1, 4)
    assert 0.15 <= report["span"] < 5


def test_an_answer_counts_only_where_it_is_the_servers(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with ModelServer() as server:
        pairs = [[text, ask(server.url, text)] for text in questions(4)]
    assert running.right_answers(file, 4) == 0
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert running.right_answers(file, 4) == 4
    pairs[1][1], pairs[2][1] = pairs[2][1], None
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert running.right_answers(file, 4) == 2
    assert pairs[0][1] == answer([{"content": pairs[0][0]}])


def test_a_row_is_over_the_ideal_and_falls_where_questions_are_missing() -> None:
    found = {"answered": 64, "wall": 0.5, "cpu": 0.064}
    row = api_throughput.row_of("journal", 64, 32, 0.1, served(), "", found)
    assert row["over_ideal"] == pytest.approx(2.5)  # the ideal is two rounds of 0.1 s
    assert row["span_over_ideal"] == pytest.approx(1.5)
    assert row["cpu_ms_a_call"] == pytest.approx(1.0)
    probed = served(conversations=65, attempts=66, empty=2)
    assert api_throughput.row_of("curator", 64, 32, 0.1, probed, "", found)["attempts"] == 64
    short = api_throughput.row_of("curator", 64, 32, 0.1, served(conversations=63), "", found)
    hung = api_throughput.row_of(
        "inspect", 64, 32, 0.1, served(), "hung after 120 s", {"answered": 0}
    )
    assert api_throughput.markdown([row, short, hung]).splitlines()[2:] == [
        "| nfilter with its journal | 1.50 | 2.50 | 1.00 |",
        f"| {running.name('curator')} | 63 questions served, 64 answered of 64 |  |  |",
        f"| {running.name('inspect')} | hung after 120 s |  |  |",
    ]


def test_kills_stand_side_by_side_and_a_hang_is_told() -> None:
    rows = [
        {"way": "nfilter", "trouble": "", "replies_at_kill": 10 + n, "out_at_kill": 4, "asked_again": 5 + n, "answered_again": 1 + n,
         "answered": 20, "calls": 20}
        for n in range(2)
    ]  # fmt: skip
    early = {"way": "distilabel", "trouble": "before the kill: hung after 120 s", "calls": 20}
    table = api_kills.markdown([*rows, early], str)
    assert table.splitlines()[2:] == [
        "| nfilter | 10, 11 | 4, 4 | 5, 6 | 1, 2 | 20 of 20 rows |",
        "| distilabel |  |  |  |  | before the kill: hung after 120 s |",
    ]


def test_adaptive_is_held_to_the_best_fixed_level_at_the_same_server() -> None:
    rows = [
        {"server": server, "level": level, "wall": wall, "trouble": "", "limited": 0, "most_in_flight": 9}
        for server, level, wall in [("a", "adaptive", 3.0), ("a", 64, 2.0), ("a", 96, 2.5), ("b", 64, 1.0)]
    ]  # fmt: skip
    over = [line.split("|")[4].strip() for line in api_adaptive.markdown(rows).splitlines()[2:]]
    assert over == ["1.50", "1.00", "1.25", "1.00"]


def test_an_environment_that_is_not_there_is_told_with_what_makes_it(tmp_path: Path) -> None:
    made = f"python -m benchmarks.peers setup {tmp_path}"
    assert running.missing(tmp_path, list(running.PEERS)).endswith(made)
    for environment in running.ENVIRONMENTS:
        python = running.interpreter(tmp_path, environment)
        python.parent.mkdir(parents=True)
        python.touch()
    assert running.missing(tmp_path, list(running.PEERS)) == ""


def test_every_peer_has_a_client_and_pinned_versions() -> None:
    for tool in running.PEERS:
        assert (running.HERE / f"ask_{tool}.py").is_file()
        assert running.name(tool).split()[1][0].isdigit()
