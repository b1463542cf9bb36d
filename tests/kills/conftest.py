"""Runs of a recipe that are killed and started again, against a model server that counts calls."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.model_server.faults import Script, add
from tests.model_server.server import ModelServer

ROOT = Path(__file__).resolve().parents[2]
BATCH = 64  # received answers that are not committed yet: half of them wait to be read, half to be written
RECIPE = """\
name: kills
answer: number
chunk: {chunk}
models:
  expert: {{use: litellm, model: test/sums, api_base: "{url}", concurrency: {concurrency}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
  - {{use: robustft.check, views: [base], vote: all}}
  - {{use: robustft.select, by: base, keep: 0.5}}
"""


@dataclass
class Bench:
    """One server and one data set; ``start`` starts a run in a new directory."""

    home: Path
    server: ModelServer
    rows: int
    concurrency: int
    build: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def start(self, out: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """Start ``nfilter run``, with ``words`` behind it, with the failures that ``build`` sets up; return the process."""
        code = f"import sys\n{self.build}\nfrom nfilter.cli import entry\nsys.exit(entry(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, "run", "r.yaml", "--out", out, "--quiet", *words],
            cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, "NFILTER_ALLOW_HOSTS": "127.0.0.1", **self.env, **env},
        )  # fmt: skip

    def finish(self, out: str, **env: str) -> int:
        """Run to the end or to the kill; return the exit code."""
        process = self.start(out, **env)
        _, error = process.communicate()
        if process.returncode not in (0, -9):
            raise AssertionError(error.decode())
        return process.returncode

    def kept(self, out: str) -> str:
        """Return the SHA-256 of all rows that the run kept, sorted by id."""
        digest = hashlib.sha256()
        for name in ("cleaned", "dropped"):
            lines = (self.home / out / f"{name}.jsonl").read_text().splitlines()
            for row in sorted(map(json.loads, lines), key=lambda row: row["id"]):
                digest.update(json.dumps([name, row], sort_keys=True).encode())
        return digest.hexdigest()

    def committed(self, out: str) -> set[str]:
        """Return the samples whose answer is in the journal."""
        path = self.home / out / "journal.db"
        if not path.is_file():
            return set()
        # A copy, because opening the journal of a killed process would repair it before the next run does.
        copy = self.home / "look"
        copy.mkdir(exist_ok=True)
        for part in ("", "-wal"):
            source = path.with_name(path.name + part)
            target = copy / f"journal.db{part}"
            target.unlink(missing_ok=True)
            if source.is_file():
                target.write_bytes(source.read_bytes())
        with closing(sqlite3.connect(copy / "journal.db")) as connection:
            try:
                return {row[0] for row in connection.execute("SELECT DISTINCT sample FROM uses")}
            except sqlite3.OperationalError:  # killed before the tables were made
                return set()

    def served(self) -> dict[str, int]:
        """Return the number of calls by sample."""
        return {_id(content): len(kinds) for content, kinds in self.server.plan.served.items()}

    def forget(self) -> None:
        """Reset the counts."""
        self.server.plan.served.clear()
        self.server.plan.counts.clear()


def _id(content: str) -> str:
    return f"row-{re.findall(r'([0-9]+)[+]', content)[-1]}"


@pytest.fixture
def bench_of(tmp_path: Path) -> Iterator[Any]:
    """Return a factory of benches by number of rows and of concurrent calls."""
    servers: list[ModelServer] = []

    def make(rows: int, concurrency: int, chunk: int, latency: float = 0.005) -> Bench:
        server = ModelServer(Script(answer=add, latency=latency))
        server.__enter__()
        servers.append(server)
        data = [
            {"id": f"row-{n}", "prompt": f"{n}+{n % 7}", "response": str(n + n % 7 + (n % 3 == 0))}
            for n in range(rows)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
        recipe = RECIPE.format(url=server.url, concurrency=concurrency, chunk=chunk)
        (tmp_path / "r.yaml").write_text(recipe)
        return Bench(tmp_path, server, rows, concurrency)

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@dataclass
class Outcome:
    """The result of killed runs: how they ended, and which calls were repeated."""

    kills: int = 0
    again: int = 0
    repeated: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    overpaid: list[str] = field(default_factory=list)

    @property
    def bad(self) -> list[str]:
        """All violations."""
        return [*self.repeated, *self.other, *self.overpaid]


def survive(bench: Bench, name: str, kill: Any, whole: str, outcome: Outcome) -> None:
    """Kill one run by ``kill``, run it again to its end, and check both."""
    bench.forget()
    if kill(bench, name) == 0:
        return  # the run ended before the kill
    outcome.kills += 1
    done = bench.committed(name)
    before = bench.served()
    try:
        bench.finish(name)
    except AssertionError as error:
        outcome.other.append(f"{name}: the second run failed: {error}")
        return
    after = bench.served()
    repeated = {key for key in done if after.get(key, 0) > before.get(key, 0)}
    if repeated:
        outcome.repeated.append(f"{name}: {len(repeated)} committed calls were made again")
    if bench.kept(name) != whole:
        outcome.other.append(f"{name}: other rows are left")
    twice = sum(after.values()) - bench.rows
    outcome.again += twice
    if twice > bench.concurrency + BATCH:
        outcome.overpaid.append(f"{name}: {twice} calls were made twice")


def at_place(place: str, number: int) -> Any:
    """Kill when a failpoint is reached for the ``number``-th time."""
    return lambda bench, name: bench.finish(name, NFILTER_FAILPOINT=f"{place}:{number}")


def after(seconds: float) -> Any:
    """Kill after a time."""

    def kill(bench: Bench, name: str) -> int:
        process = bench.start(name)
        time.sleep(seconds)  # the time of the kill; no check depends on it
        process.kill()
        process.communicate()
        return process.returncode

    return kill
