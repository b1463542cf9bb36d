"""The first Ctrl-C or SIGTERM waits for running calls and stores their answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

RECIPE = """\
name: interrupt
answer: exact
models:
  expert: {{use: litellm, model: test, api_base: "{url}", concurrency: 4}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_running_calls_complete_and_no_call_starts(tmp_path: Path, sent: signal.Signals) -> None:
    rows = [{"id": str(n), "prompt": f"what is {n}", "response": str(n)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(Script(latency=0.5)) as server:
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url))
        line = [sys.executable, "-m", "nfilter", "run", "r.yaml", "--out", "out"]
        process = subprocess.Popen(
            line, cwd=tmp_path, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )  # fmt: skip
        while server.plan.in_flight < 4:
            time.sleep(0.01)
        process.send_signal(sent)
        error = process.communicate()[1].decode()
        assert process.returncode == 130, error
        assert "waiting for running calls" in error
        before = dict(server.plan.served)
        assert 4 <= len(before) < 40
        assert subprocess.run(line, cwd=tmp_path, check=False, capture_output=True).returncode == 0
        # Every running call was recorded: each conversation was served once.
        assert all(len(kinds) == 1 for kinds in server.plan.served.values())
        assert len(server.plan.served) == 40


def test_a_child_that_inherited_the_handler_is_ended_by_sigterm() -> None:
    code = """
import os, signal, time
from nfilter.api.interrupt import Interrupt
made = Interrupt()
reader, writer = os.pipe()
with made.installed(print), made.calls():
    child = os.fork()
    if not child:
        os.write(writer, b"x")
        time.sleep(60)
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, timeout=50
    )
    assert done.returncode == 0, done.stderr.decode()
