"""The litellm transport: the same answers and failures as aiohttp, without litellm's side effects."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nfilter import ModelError, Request
from nfilter_litellm.client_guards import guard_clients
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

ROOT = Path(__file__).resolve().parents[3]
CANARY = "sk-canary-4f1d9a77c2e84b"


def test_both_transports_return_the_same(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer(Script(key=CANARY)) as server:
        os.environ["LITELLM_TEST_KEY"] = CANARY
        try:
            models = [
                backend(server.url, transport=transport, api_key_env="LITELLM_TEST_KEY")
                for transport in ("aiohttp", "litellm")
            ]
        finally:
            del os.environ["LITELLM_TEST_KEY"]
        asked = requests(20, logprobs=True, temperature=0.7, seed=5)
        first, second = (model.generate(asked) for model in models)
        assert first == second
        assert all(done.failure is None and done.logprobs for done in first)
        ours, theirs = server.asked[0], server.asked[-1]
        assert set(ours) == set(theirs)


ENDS = {
    "empty": "parse", "refusal": "refused", "filtered": "refused", "overflow": "too_long",
    "overflow_vllm": "too_long", "overflow_llama": "too_long", "hang": "timeout", "error": "server", "unavailable": "server", "reset": "server",
    "truncated": "server", "html": "server", "limited": "server", "unauthorized": "server", "no_logprobs": "server",
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDS)
def test_each_fault_has_its_failure(
    backend: Callable[..., Any], requests: Callable[..., list[Request]], kind: str
) -> None:
    with ModelServer() as server:
        model = backend(server.url, transport="litellm", timeout=5, attempts=2)
        good, bad = requests(2, logprobs=True)
        assert model.generate([good])[0].failure is None
        server.plan.script = Script(faults={kind: 1.0}, hang=20.0)
        if kind == "hang":
            model = backend(server.url, transport="litellm", timeout=0.3, attempts=2)
            with pytest.raises(ModelError, match=r"no reply within 0.3 s"):
                model.generate([bad])
            return
        (done,) = model.generate([bad])
        assert done.failure is not None
        assert done.failure.kind == ENDS[kind], done.failure
        tried = {"error": 2, "unavailable": 2, "reset": 2, "truncated": 2, "html": 2}
        if kind != "limited":
            # litellm itself retries nothing.
            assert server.plan.counts[kind] == tried.get(kind, 1)


def test_a_key_in_an_error_or_an_answer_is_redacted(
    backend: Callable[..., Any],
    requests: Callable[..., list[Request]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(1)
    monkeypatch.setenv("MY_KEY", CANARY)
    with ModelServer(Script(answer=lambda _: f"It is {CANARY}.")) as server:
        model = backend(server.url, transport="litellm", api_key_env="MY_KEY")
        assert model.generate(requests(1))[0].text == "It is ***."
        assert server.keys == {CANARY}
        server.plan.script = Script(faults={"unauthorized": 1.0})
        with pytest.raises(ModelError) as error:
            model.generate(requests(5))
    assert "401" in str(error.value)
    assert CANARY not in str(error.value)
    assert CANARY not in caplog.text


PROGRAM = """
import os, sys
from nfilter_litellm.providers import library, supports_logprobs, missing_keys
import socket
def refuse(*a, **k): raise AssertionError("the network was used")
socket.socket.connect = refuse
litellm = library()
assert "FROM_DOTENV" not in os.environ, "litellm read .env"
assert "LITELLM_MODE" not in os.environ
assert litellm.telemetry is False and litellm.success_callback == []
assert supports_logprobs("openai/gpt-4o-mini") and not supports_logprobs("anthropic/claude-3-5-haiku-latest")
assert missing_keys("anthropic/claude-3-5-haiku-latest") == ["ANTHROPIC_API_KEY"]
try:
    missing_keys("nowhere/model")
except ValueError as error:
    assert "nowhere/model" in str(error)
else:
    raise AssertionError
"""


def test_litellm_s_side_effects_are_disabled(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FROM_DOTENV=1\nANTHROPIC_API_KEY=x\n")
    unset = ("LITELLM_MODE", "ANTHROPIC_API_KEY", "LITELLM_LOCAL_MODEL_COST_MAP")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@contextmanager
def answering(reply: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a server that handles every POST with ``reply``; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            reply(self)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


# One model per kind of litellm's clients: OpenAI's library, and its own.
BOTH = pytest.mark.parametrize("model", ["test", "anthropic/claude-3-5-haiku-latest"])


@BOTH
@pytest.mark.parametrize("status", [301, 307])
def test_no_redirect_is_followed(
    backend: Callable[..., Any],
    requests: Callable[..., list[Request]],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    status: int,
) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    with ModelServer() as other:

        def elsewhere(call: BaseHTTPRequestHandler) -> None:
            call.send_response(status)
            call.send_header("Location", f"http://localhost:{other.port}/v1/chat/completions")
            call.send_header("Content-Length", "0")
            call.end_headers()

        with answering(elsewhere) as url:
            made = backend(url, model, transport="litellm", api_key_env="MY_KEY", attempts=1)
            with pytest.raises(ModelError, match=rf"{status}.*redirects are not followed"):
                made.generate(requests(1))
        assert not other.paths
        assert not other.keys


@BOTH
def test_an_endless_reply_is_not_read(
    backend: Callable[..., Any], requests: Callable[..., list[Request]], model: str
) -> None:
    sent = [0]

    def drip(call: BaseHTTPRequestHandler) -> None:
        call.send_response(200)
        call.send_header("Content-Type", "application/json")
        call.end_headers()
        with suppress(ConnectionError):
            while sent[0] < 200 * 2**20:
                call.wfile.write(b" " * 2**16)
                sent[0] += 2**16

    with answering(drip) as url:
        made = backend(url, model, transport="litellm", attempts=1)
        with pytest.raises(ModelError, match="the reply has more than 16 MiB"):
            made.generate(requests(1))
    assert 16 * 2**20 < sent[0] < 64 * 2**20  # plus the sockets' buffers


def test_a_litellm_that_creates_its_clients_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from litellm.llms.openai.common_utils import BaseOpenAILLM

    monkeypatch.delattr(BaseOpenAILLM, "_get_async_http_client")
    with pytest.raises(ModelError, match="cannot be limited; type: pip install"):
        guard_clients()
