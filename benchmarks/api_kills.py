"""``kill -9`` after half of the answers, then the same command again: the number of repeated calls.

A call that was out at the kill cannot but be made again. What was answered and is asked again is what a tool has lost: an
answer that it had not written down yet, or not yet taken off its socket. Repeated kills are spread over the latency of a
call, for tools that ask and are answered in waves.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import running
from benchmarks.peers.asking import questions
from tests.model_server.server import ModelProcess

Command = Callable[[str, Path], list[str]]
"""The command line for a server's base URL, with all files in one folder."""

LEVEL = 64
HANGS = 120.0
"""Seconds."""

RECIPE = """\
name: asking
models:
  expert: {{use: litellm, model: test, api_base: "{url}", concurrency: {level}, max_tokens: 64}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
"""
OURS = (
    "import os, sys; from benchmarks.peers.asking import pin; pin(); "
    "from nfilter.cli import entry; sys.exit(entry(sys.argv[1:]))"
)


def ours(calls: int, level: int) -> Command:
    """Return ``nfilter run`` of a recipe with one stage that calls a model."""

    def command(url: str, folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"id": str(n), "prompt": text, "response": "?"}
            for n, text in enumerate(questions(calls))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows.jsonl").write_text(text, encoding="utf-8")
        recipe = folder / "asking.yaml"
        recipe.write_text(RECIPE.format(url=url, level=level), encoding="utf-8")
        return [
            sys.executable,
            "-c",
            OURS,
            "run",
            str(recipe),
            "--out",
            str(folder / "run"),
            "--quiet",
        ]

    return command


def peer(environments: Path, tool: str, calls: int, level: int) -> Command:
    return lambda url, folder: running.command(environments, tool, url, calls, level, folder)


def answered(folder: Path, tool: str, calls: int) -> int:
    """Return the number of rows with an answer."""
    if tool != "nfilter":
        return running.right_answers(folder / "answers.jsonl", calls)
    file = folder / "run" / "cleaned.jsonl"
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


def row(
    tool: str, command: Command, calls: int, latency: float, delay: float, cores: set[int] | None
) -> dict[str, Any]:
    """Kill a tool once, ``delay`` seconds after half of the answers, and run it again."""
    with (
        ModelProcess(cores=cores, latency=latency) as server,
        tempfile.TemporaryDirectory() as place,
    ):
        home, folder = Path(place) / "home", Path(place) / "out"
        words = command(server.url, folder)
        env = running.environment()
        if tool == "nfilter":
            env = {**os.environ, "NFILTER_ALLOW_HOSTS": "127.0.0.1"}
        process = running.begin(words, home, env)
        deadline = time.monotonic() + HANGS
        while server.report()["replies"] < calls // 2:
            if process.poll() is not None or time.monotonic() > deadline:
                done = running.end(process, home, 0.0)
                return {"way": tool, "calls": calls, "trouble": f"before the kill: {done.trouble}"}
            time.sleep(0.02)
        time.sleep(delay)
        running.kill(process)
        at_kill = server.report()
        done = running.end(running.begin(words, home, env), home, HANGS)
        served = server.report()
        asked = served["attempts"] - served["empty"]
        distinct = served["conversations"] - bool(served["empty"])
        return {
            "way": tool, "calls": calls, "trouble": done.trouble, "replies_at_kill": at_kill["replies"],
            "out_at_kill": at_kill["attempts"] - at_kill["empty"] - at_kill["replies"],
            "distinct": distinct, "asked_again": asked - distinct,
            "answered_again": max(0, served["replies"] - distinct),
            "answered": answered(folder, tool, calls),
        }  # fmt: skip


def markdown(rows: list[dict[str, Any]], names: Callable[[str], str]) -> str:
    """Print one line per tool: the figures of its kills in order."""
    lines = [
        "| way | answered at the kill | out at the kill | asked twice | answered before, and lost | in the end |",
        "|---|---|---|---|---|---|",
    ]
    columns = ("replies_at_kill", "out_at_kill", "asked_again", "answered_again")
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        cells = [", ".join(str(row.get(column, "")) for row in own) for column in columns]
        ends = [row["trouble"] or f"{row['answered']:,} of {row['calls']:,} rows" for row in own]
        lines.append(f"| {names(way)} | {' | '.join(cells)} | {', '.join(dict.fromkeys(ends))} |")
    return "\n".join(lines)


def measure(
    environments: Path | None, tools: list[str], calls: int, repeats: int, latency: float, cores: set[int] | None
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure nfilter and the other tools whose environments exist. A tool that failed is not measured again."""
    commands = {"nfilter": ours(calls, LEVEL)}
    if environments is not None:
        commands |= {tool: peer(environments, tool, calls, LEVEL) for tool in tools}
    rows: list[dict[str, Any]] = []
    for tool, command in commands.items():
        for turn in range(repeats):
            rows.append(row(tool, command, calls, latency, latency * turn / repeats, cores))
            print(rows[-1], file=sys.stderr, flush=True)
            if rows[-1]["trouble"]:
                break
    return rows
