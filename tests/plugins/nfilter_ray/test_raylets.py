"""A cluster of two raylets on this machine: rows as of one process, and a raylet that is killed costs no second call."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engine.ranks.conftest import results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]
RECIPE = """\
name: raylets
answer: number
chunk: 5
models:
  expert: {{use: litellm, model: test/sums, api_base: "{url}", concurrency: 2, price: {{prompt: 0, completion: 0}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, logprobs: false, into: base}}
  - {{use: robustft.check, views: [base], vote: all}}
executor: {{use: ray, workers: 2, address: "{address}", cpus: 1, gpus: 1}}
"""
ROWS = 40


class Sums(ThreadingHTTPServer):
    """Adds two numbers. ``answered`` counts the answers; calls for the sums ``held`` wait, and are lost with their caller."""

    daemon_threads = True

    def __init__(self, held: frozenset[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answered: Counter[str] = Counter()
        self.held = held
        self.arrived, self.lost = threading.Event(), threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Answers one call."""

    server: Sums

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = str(asked["messages"][-1]["content"])
        left, right = re.findall(r"(\d+)\+(\d+)", question)[-1]
        key = f"{left}+{right}"
        if key in self.server.held and not self.server.lost.is_set():
            self.server.arrived.set()
            self.server.lost.wait(600)
            self.close_connection = True
            return
        self.server.answered[key] += 1
        choice = {
            "message": {"role": "assistant", "content": f"The answer is {int(left) + int(right)}"},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 4}
        body = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name of the base class)
        """Write no log."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("NFILTER_ALLOW_HOSTS", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()


def raylet(cluster: Any) -> Any:
    """Add a raylet with room for one actor."""
    return cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 2**20)


def process_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def parent(process: int) -> int:
    """Return the process that started another one."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nfilter", "run", "r.yaml", *words], cwd=home, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "NFILTER_ALLOW_HOSTS": "127.0.0.1"},
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error


def test_a_raylet_that_is_killed_costs_no_second_call(cluster: Any, tmp_path: Path) -> None:
    raylets = [raylet(cluster), raylet(cluster)]
    cluster.wait_for_nodes()
    # The rows of chunk 3, the second one of rank 1, whose first chunk is then published.
    with Sums(held=frozenset(f"{n}+1" for n in range(15, 20))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=url, address=cluster.address))
        rows = [
            {"id": f"row-{n}", "prompt": f"{n}+1", "response": str(n + 1 + (n % 3 == 0))}
            for n in range(ROWS)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = start(tmp_path, "--out", "two")
        while not server.arrived.wait(0.2):
            assert run.poll() is None, run.communicate()[1]
        lock = tmp_path / "two/ranks/1/lock"
        lost = json.loads(lock.read_text())["process"]
        nodes = {process_of(node): node for node in raylets}
        before = Counter(server.answered)
        cluster.remove_node(nodes[parent(lost)], allow_graceful=False)
        # The process of an actor ends by itself after its raylet.
        while Path(f"/proc/{lost}").exists():
            assert run.poll() is None, run.communicate()[1]
            server.lost.wait(0.2)
        server.lost.set()
        raylet(cluster)
        end(run)
        assert sum(before.values()) >= 5
        assert server.answered == Counter(f"{n}+1" for n in range(ROWS))
        assert json.loads(lock.read_text())["process"] != lost
        server.answered.clear()
        end(start(tmp_path, "--out", "one", "--set", "executor=null"))
        server.shutdown()
    assert results(tmp_path / "two") == results(tmp_path / "one")
    calls = [json.loads((tmp_path / out / "manifest.json").read_text())["calls"] for out in ("one", "two")]  # fmt: skip
    assert calls[0] == calls[1]
