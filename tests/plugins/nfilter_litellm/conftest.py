"""Fixtures: virtual time, a scripted transport without a socket, and backends against a real server."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion, Message, ModelError, Request, Sampling, Site
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.dispatcher import Dispatcher
from nfilter_litellm.failures import broken, from_status, off_schema, timed_out
from nfilter_litellm.feed import Feed
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.protocol import read
from nfilter_litellm.retry import Retry
from tests.model_server.faults import Plan, Script, completion, content_of, error_body


class _Instant:
    """A selector that never waits: the clock jumps to the next timer."""

    def __init__(self) -> None:
        self.real = selectors.DefaultSelector()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "every task waits, but no timer is set"
        self.now += max(timeout, 0)
        return self.real.select(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._instant = _Instant()
        super().__init__(self._instant)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._instant.now


class Scripted:
    """A transport that follows a script of replies, in the loop's time."""

    def __init__(self, script: Script, timeout: float = 30.0) -> None:
        self.plan = Plan(script)
        self.timeout = timeout
        self.starts: list[float] = []
        self._slots = asyncio.Semaphore(script.slots) if script.slots else None

    async def call(self, request: Request) -> Completion:
        loop = asyncio.get_running_loop()
        self.starts.append(loop.time())
        messages = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        self.plan.enter()
        try:
            return await self._reply(
                request, messages, self.plan.decide(content_of(messages), loop.time())
            )
        finally:
            self.plan.leave()

    async def _reply(
        self, request: Request, messages: list[dict[str, Any]], kind: str
    ) -> Completion:
        script = self.plan.script
        if kind in (
            "limited",
            "limited_after",
            "unauthorized",
            "no_quota",
            "unknown_model",
            "forbidden",
        ):
            status, body = error_body(kind)
            raise from_status(
                status,
                __import__("json").dumps(body),
                script.retry_after if kind == "limited_after" else None,
            )
        if kind == "hang":
            await asyncio.sleep(self.timeout)
            raise timed_out(self.timeout)
        if self._slots is not None:
            async with self._slots:
                await asyncio.sleep(script.latency)
        else:
            await asyncio.sleep(script.latency)
        if kind in ("error", "unavailable", "overflow", "overflow_vllm"):
            status, body = error_body(kind)
            raise from_status(status, __import__("json").dumps(body))
        if kind in ("reset", "truncated", "empty_body", "html", "drip"):
            raise broken(kind)
        if kind == "off_schema":
            raise off_schema("no choices")
        return read(
            completion(script, messages, {"logprobs": request.logprobs}, kind),
            logprobs=request.logprobs,
        )

    async def close(self) -> None:
        pass


class Simulation:
    """A dispatcher with a scripted transport, in virtual time."""

    def __init__(self, script: Script, concurrency: int | None = None, **more: Any) -> None:
        self.loop = VirtualLoop()
        self.stopped_at = math.inf
        self.transport = Scripted(script, more.pop("timeout", 30.0))
        self.limiter = Limiter(concurrency)
        self.dispatcher = Dispatcher(
            self.transport,
            self.limiter,
            Retry(**more),
            Breaker("model 'm' at nowhere"),
            lambda: self.loop.time() >= self.stopped_at,
        )
        self.answers: dict[int, Completion] = {}
        self.ended: list[float] = []
        self.error: ModelError | None = None

    @property
    def plan(self) -> Plan:
        return self.transport.plan

    def run(self, requests: Sequence[Request]) -> float:
        """Make all calls; return the seconds they took."""
        started = self.loop.time()

        def emit(index: int, answer: Completion) -> None:
            assert index not in self.answers
            self.answers[index] = answer
            self.ended.append(self.loop.time())

        try:
            self.loop.run_until_complete(self.dispatcher.run(Feed(requests), emit))
        except ModelError as error:
            self.error = error
        return self.loop.time() - started

    def within(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulation]]:
    made: list[Simulation] = []

    def build(script: Script, concurrency: int | None = None, **more: Any) -> Simulation:
        made.append(Simulation(script, concurrency, **more))
        return made[-1]

    yield build
    for one in made:
        one.loop.close()


def make_requests(n: int, *, logprobs: bool = False, **sampling: Any) -> list[Request]:
    """Return different questions, one per sample."""
    return [
        Request((Message("user", f"question {i}"),), Sampling(**sampling), logprobs, f"s{i}")
        for i in range(n)
    ]


@pytest.fixture
def requests() -> Callable[..., list[Request]]:
    return make_requests


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiteLLMBackend]]:
    """Return a factory of backends, ``backend(server.url, timeout=1)``, with short retry delays; closed after the test."""
    made: list[LiteLLMBackend] = []

    def build(
        url: str | None, model: str = "test", patience: float = 2.0, **settings: Any
    ) -> LiteLLMBackend:
        monkeypatch.setattr(
            "nfilter_litellm.backend.Retry", lambda attempts: Retry(attempts, patience, 0.002)
        )
        config = LiteLLMConfig.model_validate({"model": model, "api_base": url, **settings})
        made.append(LiteLLMBackend(config, Site(Path())))
        return made[-1]

    yield build
    for one in made:
        one.close()
