"""A model server for tests: OpenAI's chat completions and batches, with the faults of its script.

In a thread of this process, so that a test can inspect what it served::

    with ModelServer(Script(faults={"error": 0.1}, seed=3)) as server:
        ask(server.url, ...)
        assert server.plan.counts["error"] > 0

or in a separate process (``ModelProcess``), which does not affect measurements of time.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tests.model_server.batches import Batches, BatchScript
from tests.model_server.faults import Plan, Script, completion, content_of, error_body

if TYPE_CHECKING:
    from aiohttp import web

ROOT = Path(__file__).parents[2]
_PIECE = 2**16
_HELD_SECONDS = 0.005  # between two looks whether a reply is still held


class ModelServer:
    """A server on 127.0.0.1, in a thread, during a ``with`` block. Without ``batches`` it has no batches."""

    def __init__(
        self, script: Script | None = None, port: int = 0, batches: BatchScript | None = None
    ) -> None:
        self.plan = Plan(script or Script())
        self.batches = Batches(batches or BatchScript(), self.plan)
        self._has_batches = batches is not None
        self.port = port
        self.keys: set[str] = set()
        self.paths: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self.dripped = 0
        self.replies = 0
        self._held = 0
        self._span: list[float] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._slots: asyncio.Semaphore | None = None
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)

    @property
    def url(self) -> str:
        """Return the ``api_base`` of the server."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def stopping(self) -> None:
        """Wait until the server is to stop."""
        assert self._stop is not None
        await self._stop.wait()

    def serve(self) -> None:
        """Serve in this thread until the process ends; print the port as JSON."""
        asyncio.run(self._main(announce=True))

    def _run(self) -> None:
        try:
            asyncio.run(self._main(announce=False))
        except BaseException as error:  # noqa: BLE001 (it is raised where the server was started)
            self._failed = error
        finally:
            self._ready.set()

    async def _main(self, *, announce: bool) -> None:
        from aiohttp import web

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._released = asyncio.Event()
        slots = self.plan.script.slots
        self._slots = asyncio.Semaphore(slots) if slots is not None else None
        served = web.Server(self._handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(served, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=4096)
        await site.start()
        self.port = runner.addresses[0][1]
        if announce:
            sys.stdout.write(json.dumps({"port": self.port}) + "\n")
            sys.stdout.flush()
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        self.paths.add(request.path)
        if request.path == "/counts":
            return web.json_response(self.report())
        if self._has_batches:
            now = asyncio.get_running_loop().time()
            reply = await self.batches.answer(request, now)
            if reply is not None:
                return reply
        if request.path != "/v1/chat/completions":
            return web.json_response({"detail": "Not Found"}, status=404)
        self.plan.enter()
        try:
            asked = json.loads(await request.read())
            if not content_of(
                asked["messages"]
            ):  # some clients request the headers of a reply this way
                return await self._answer(request, asked)
            clock = asyncio.get_running_loop().time
            began = self._span[0] if self._span else clock()
            self._span = [began, clock()]
            reply = await self._answer(request, asked)
            self.replies += 1
            self._span = [began, clock()]
            return reply
        finally:
            self.plan.leave()

    def report(self) -> dict[str, Any]:
        """Return ``Plan.report``, the number of replies, and the seconds from the first call to the last reply."""
        began, ended = self._span or (0.0, 0.0)
        empty = len(self.plan.served.get("", ()))
        return {
            **self.plan.report(),
            "replies": self.replies,
            "span": ended - began,
            "empty": empty,
        }

    async def _answer(self, request: web.BaseRequest, asked: dict[str, Any]) -> web.StreamResponse:
        from aiohttp import web

        script = self.plan.script
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.keys.add(key)
        if len(self.asked) < 100:
            self.asked.append(asked)
        content = content_of(asked["messages"])
        kind = self.plan.decide(content, asyncio.get_running_loop().time(), key, asked)
        held = script.held(content)
        # A test sets it in another thread, so an event of this loop cannot be notified.
        while held is not None and not held.is_set():  # noqa: ASYNC110
            await asyncio.sleep(_HELD_SECONDS)
        if kind in _BROKEN:
            await self._latency()
            return await _BROKEN[kind](self, request)
        if kind in _REFUSED:
            await self._together()
            status, body = error_body(kind, key)
            after = f"{script.retry_after * script.scale:g}"
            headers = {"Retry-After": after} if kind == "limited_after" else None
            return web.json_response(body, status=status, headers=headers)
        await self._latency()
        body = {"result": "ok"}
        if kind != "off_schema":
            body = completion(script, asked["messages"], asked, kind)
        text = json.dumps(body).encode()
        if kind == "truncated":
            text = text[: len(text) // 2]
        return web.Response(body=text, content_type="application/json")

    async def _together(self) -> None:
        """Wait until as many calls wait here as the script says; never again afterwards."""
        self._held += 1
        if self._held >= self.plan.script.together:
            self._released.set()
        await asyncio.wait_for(self._released.wait(), 60)

    async def _latency(self) -> None:
        seconds = self.plan.script.latency * self.plan.script.scale
        if self._slots is None:
            await asyncio.sleep(seconds)
            return
        async with self._slots:
            await asyncio.sleep(seconds)


async def _hang(server: ModelServer, _request: web.BaseRequest) -> web.StreamResponse:
    from aiohttp import web

    script = server.plan.script
    with suppress(TimeoutError):
        await asyncio.wait_for(server.stopping(), script.hang * script.scale)
    return web.Response(status=504)


async def _reset(_server: ModelServer, request: web.BaseRequest) -> web.StreamResponse:
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Length": "4096"})
    await response.prepare(request)
    await response.write(b'{"id": "chatcmpl-1", "choices": [{"ind')
    if request.transport is not None:
        request.transport.abort()
    return response


async def _drip(server: ModelServer, request: web.BaseRequest) -> web.StreamResponse:
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    piece = b" " * _PIECE
    try:
        for _ in range(server.plan.script.drip_bytes // _PIECE):
            await response.write(piece)
            server.dripped += _PIECE
            await asyncio.sleep(0)
    except ConnectionError:
        return response
    await response.write_eof()
    return response


async def _empty_body(_server: ModelServer, _request: web.BaseRequest) -> web.StreamResponse:
    from aiohttp import web

    return web.Response(body=b"", content_type="application/json")


async def _html(_server: ModelServer, _request: web.BaseRequest) -> web.StreamResponse:
    from aiohttp import web

    page = "<html><body>Please sign in.</body></html>"
    return web.Response(text=page, content_type="text/html")


async def _redirect(server: ModelServer, _request: web.BaseRequest) -> web.StreamResponse:
    from aiohttp import web

    return web.Response(status=307, headers={"Location": f"http://localhost:{server.port}/taken"})


_BROKEN = {
    "hang": _hang,
    "reset": _reset,
    "drip": _drip,
    "empty_body": _empty_body,
    "html": _html,
    "redirect": _redirect,
}
_REFUSED = frozenset(
    {
        "limited", "limited_after", "error", "gateway", "unavailable", "unauthorized", "forbidden", "no_quota", "unknown_model",
        "overflow", "overflow_vllm", "overflow_llama", "no_schema", "no_max_tokens", "no_max_completion_tokens",
    }
)  # fmt: skip


class ModelProcess:
    """The same server in a separate process; ``settings`` are those of ``Script`` that are JSON values.

    ``cores`` limits it to some processor cores if the system supports that.
    """

    def __init__(self, cores: set[int] | None = None, **settings: Any) -> None:
        self.port = 0
        self._settings = {**settings, "cores": sorted(cores) if cores else None}
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Return the ``api_base`` of the server."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ModelProcess:
        command = [sys.executable, "-m", "tests.model_server.server", json.dumps(self._settings)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the model server did not start; what it said is on standard error")
        self.port = json.loads(line)["port"]
        return self

    def kill(self) -> None:
        """Kill the server, with its connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def report(self) -> dict[str, Any]:
        """Return the counts so far; see ``ModelServer.report``."""
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()


def _serve(text: str) -> None:
    import os

    settings = json.loads(text)
    cores = settings.pop("cores", None)
    port = settings.pop("port", 0)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    ModelServer(Script(**settings), port).serve()


if __name__ == "__main__":
    _serve(sys.argv[1])
