"""The call engine: sends requests concurrently and yields completions; every call ends in an answer or a recorded failure.

One event loop runs in its own thread for the engine's lifetime. State shared between calls (level, connections,
breaker) is used in that thread only.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from nfilter import BudgetError, Completion, Failure, ModelError, Request
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.failures import CallError
from nfilter_litellm.feed import Feed
from nfilter_litellm.gate import Gate
from nfilter_litellm.host_guard import HostGuard, guard_thread, guarded, new_loop
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.request_shapes import RequestShapes
from nfilter_litellm.retry import Retry

_FLUSH_SECONDS = 0.05  # longest time for which answers are collected before delivery
_MAX_COLLECTED = 16  # answers that are delivered at once
_MAX_UNREAD = 32  # unread answers at which no call starts, because a kill would lose them
_IDLE_SECONDS = 0.05  # longest wait for an answer, while other conversations may go on
_MAX_TIMEOUTS = 3  # attempts that may time out: each takes long

Answered = tuple[int, Completion]


async def _no_wait() -> None:
    """Return at once."""


class Transport(Protocol):
    """Sender of single attempts."""

    async def call(self, request: Request) -> Completion:
        """Return the completion; raise CallError."""
        ...

    async def close(self) -> None: ...


class Dispatches(Protocol):
    """Dispatcher of many calls in an engine's event loop."""

    attempts: int
    calls: int

    @property
    def level(self) -> int:
        """Return the maximum number of concurrent calls."""
        ...

    async def run(
        self,
        requests: Feed,
        emit: Callable[[int, Completion], None],
        room: Callable[[], Awaitable[None]],
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of an engine: completed calls, their attempts, and the current concurrency level."""

    calls: int
    attempts: int
    level: int


class Dispatcher:
    """Asynchronous dispatcher: runs calls concurrently and retries each until it ends."""

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        retry: Retry,
        breaker: Breaker,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once ``stopping`` returns True, no attempt starts; running calls complete."""
        self.limiter = limiter
        self._transport = transport
        self._retry = retry
        self._breaker = breaker
        self._stopping = stopping
        # After a 429 the server recovers by itself: try at least every 8 s.
        self._pause = replace(retry, max_delay=16 * retry.base)
        self._gate = Gate(limiter)
        self._shapes = RequestShapes(transport)
        # Number of requests that wait to be started; while positive, the level is the bottleneck.
        self._feeding = 0
        self.attempts = 0
        self.calls = 0

    @property
    def level(self) -> int:
        """Return the current maximum number of concurrent calls."""
        return self.limiter.level

    async def run(
        self,
        requests: Feed,
        emit: Callable[[int, Completion], None],
        room: Callable[[], Awaitable[None]] = _no_wait,
    ) -> None:
        """Make all calls; pass each completion to ``emit``; await ``room`` before each start.

        A call that is given up because the run stops closes the feed: no answer would close it.

        Raises:
            ModelError: the breaker ended the run; running calls are cancelled.
        """
        self.limiter.begin()
        try:
            async with asyncio.TaskGroup() as group:
                async for index, request in requests:
                    ticket = await self._start(room)
                    if self._stopping():
                        self._gate.leave()
                        break
                    slot = _Slot(ticket)
                    call = self._call(index, request, slot, emit, requests.close)
                    group.create_task(call).add_done_callback(partial(self._give_back, slot))
        except BaseExceptionGroup as errors:
            raise root_error(errors) from None
        self._breaker.finished()

    def _give_back(self, slot: _Slot, _: asyncio.Task[None]) -> None:
        """Release the slot of a call that was cancelled before its first step, which runs none of its code."""
        if not slot.taken:
            self._gate.leave()

    async def _start(self, room: Callable[[], Awaitable[None]]) -> int:
        """Wait until a call may start, and return its ticket."""
        self._feeding += 1
        try:
            await room()
            return await self._gate.enter()
        finally:
            self._feeding -= 1

    async def _call(
        self,
        index: int,
        request: Request,
        slot: _Slot,
        emit: Callable[[int, Completion], None],
        give_up: Callable[[], None],
    ) -> None:
        ticket = slot.take()
        state = _CallState(self._retry, self._pause, f"{request.sample_id}\x1f{index}")
        while True:
            answer = await self._attempt(request, ticket, state)
            if answer is not None:
                self.calls += 1
                emit(index, state.with_cost(answer))
                self._breaker.check_unanswered()
                return
            ticket = await self._gate.wait_and_reenter(state.delay)
            if self._stopping():
                self._gate.leave()
                give_up()
                return

    async def _attempt(self, request: Request, ticket: int, state: _CallState) -> Completion | None:
        """Return the call's completion, or None if it is to be retried after ``state.delay``."""
        clock = asyncio.get_running_loop().time
        started = clock()
        self.attempts += 1
        try:
            answer = await self._transport.call(request)
            self.limiter.answered(ticket, clock() - started, full=self._feeding > 0)
            if answer.failure is None:
                self._breaker.answered()
            else:
                self._breaker.unanswered(answer.failure.detail)
            self._shapes.accept(request)
        except CallError as error:
            state.usd += error.usd
            fault = self._final_if_too_late(error)
            if fault.is_answer:
                self._shapes.accept(request)
            self._update_limiter(fault, ticket, clock() - started)
            if state.should_retry(fault, clock()):
                return None
            if not fault.maybe_prompt or await self._shapes.is_rejected(request, state.add_cost):
                self._breaker.failed(fault)
            failure = Failure(fault.kind, state.describe(fault))
            return Completion("", "failed", None, *fault.tokens, failure)
        else:
            return answer
        finally:
            self._gate.leave()

    def _final_if_too_late(self, fault: CallError) -> CallError:
        """Return the fault; a final one if the server asks to wait longer than the patience."""
        if fault.retry_after is None or fault.retry_after <= self._retry.patience:
            return fault
        detail = f"{fault.detail}; the server asks to wait {fault.retry_after:.0f} s"
        return CallError(fault.kind, detail, shared=True)

    def _update_limiter(self, fault: CallError, ticket: int, seconds: float) -> None:
        if fault.effect == "limited":
            outage = self.limiter.limited(ticket)
            if outage:
                self._gate.close_for(self._pause.delay("outage", outage, fault.retry_after))
        elif fault.effect == "strained":
            self.limiter.strained()
        else:
            self.limiter.answered(ticket, seconds, full=self._feeding > 0)


class _Slot:
    """A slot on its way from the gate to a call; ``taken`` once the call itself releases it."""

    def __init__(self, ticket: int) -> None:
        self.taken = False
        self._ticket = ticket

    def take(self) -> int:
        """Return the ticket; from now on the call releases the slot."""
        self.taken = True
        return self._ticket


class _CallState:
    """Retry state of one call; ``usd`` is the cost of its failed attempts."""

    def __init__(self, retry: Retry, pause: Retry, key: str) -> None:
        self.delay = 0.0
        self.usd = 0.0
        self._retry = retry
        self._pause = pause
        self._key = key
        self._failed = 0
        self._timeouts = 0
        self._rejections = 0
        self._until: float | None = None

    def add_cost(self, usd: float) -> None:
        """Add a cost incurred for this call besides its attempts."""
        self.usd += usd

    def with_cost(self, answer: Completion) -> Completion:
        """Return the answer with the cost of all attempts added."""
        if not self.usd:
            return answer
        return replace(answer, usd=self.usd + (answer.usd or 0.0))

    def should_retry(self, fault: CallError, now: float) -> bool:
        """Return whether to retry, after ``delay`` seconds."""
        if not fault.retry:
            return False
        if fault.effect == "limited":
            return self._should_wait(fault, now)
        self._failed += 1
        self._timeouts += fault.kind == "timeout"
        self.delay = self._retry.delay(self._key, self._failed, fault.retry_after)
        return self._failed < self._retry.attempts and self._timeouts < _MAX_TIMEOUTS

    def _should_wait(self, fault: CallError, now: float) -> bool:
        self._rejections += 1
        if self._until is None:
            self._until = now + self._retry.patience
        self.delay = self._pause.delay(self._key, self._rejections, fault.retry_after)
        retry = now + self.delay <= self._until
        # Rejections for this long concern the account, not this call.
        fault.shared = not retry
        return retry

    def describe(self, fault: CallError) -> str:
        """Return the failure's text: the last fault and the number of attempts."""
        if not fault.retry:
            return fault.detail
        if fault.effect == "limited":
            return f"{fault.detail} (rejected {self._rejections} times)"
        return f"{fault.detail} (attempt {self._failed})"


def root_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to raise for a group: a ModelError or BudgetError if it contains one, else the first."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        own = [one for one in error.exceptions if isinstance(one, ModelError | BudgetError)]
        error = own[0] if own else error.exceptions[0]
    return error


class _Unread:
    """Number of unread answers, to bound the answers that a kill would lose. For one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._read = asyncio.Event()

    def add(self) -> None:
        """Count one answer as unread."""
        self._count += 1

    def subtract(self, count: int) -> None:
        """Count answers as read."""
        self._count -= count
        self._read.set()

    async def wait(self) -> None:
        """Wait until fewer than the maximum are unread."""
        while self._count >= _MAX_UNREAD:
            self._read.clear()
            await self._read.wait()


def _mark_read(task: asyncio.Task[None]) -> None:
    """Keep asyncio from printing the error of a stream that nobody reads any more."""
    if not task.cancelled():
        task.exception()


def _next(
    out: queue.SimpleQueue[list[Answered] | None], seconds: float | None
) -> list[Answered] | None:
    """Return the next answers, no answers after ``seconds``, or None at the end."""
    try:
        return out.get(timeout=seconds)
    except queue.Empty:
        return []


class Engine:
    """Synchronous interface: a stage's thread submits requests, the loop's thread processes them."""

    def __init__(
        self,
        build: Callable[[], Dispatches],
        close: Callable[[], Coroutine[Any, Any, None]],
        guard: HostGuard | None = None,
    ) -> None:
        """``build`` creates the dispatcher and ``close`` closes its transport, both in the loop's thread.

        ``guard`` restricts the connections of that thread.
        """
        self._build = build
        self._close = close
        self._guard = guard
        self._dispatcher: Dispatches | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def stream(
        self, requests: Sequence[Request], more: Callable[[], Sequence[Request]] | None = None
    ) -> Iterator[Answered | None]:
        """Yield (index, completion) in order of arrival; None whenever all answers so far were delivered.

        ``more`` is called after each answer and returns further requests, which start at once. Answers that precede an error are delivered before it is raised. Closing the generator cancels running calls.

        Raises:
            ModelError: calls failed for a shared reason.
        """
        if not requests:
            return
        out: queue.SimpleQueue[list[Answered] | None] = queue.SimpleQueue()
        tasks: list[asyncio.Task[None]] = []
        loop = self._running_loop()
        unread = _Unread()
        feed = Feed(requests, open_=more is not None)
        left = len(requests)

        def start() -> None:
            task = loop.create_task(self._produce(feed, out.put, unread))
            task.add_done_callback(_mark_read)
            task.add_done_callback(lambda _: out.put(None))
            tasks.append(task)

        loop.call_soon_threadsafe(start)
        completed = False
        try:
            while (batch := _next(out, None if more is None else _IDLE_SECONDS)) is not None:
                for answered in batch:
                    yield answered
                    further = more() if more is not None else ()
                    left += len(further) - 1
                    if further:
                        loop.call_soon_threadsafe(feed.add, further)
                    elif left == 0:
                        loop.call_soon_threadsafe(feed.close)
                loop.call_soon_threadsafe(unread.subtract, len(batch))
                if out.empty():
                    yield None
            completed = True
        finally:
            if not completed:
                # A lambda, because the task may not exist yet.
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108
                while out.get() is not None:
                    pass
        tasks[0].result()

    def tally(self) -> Tally:
        """Return the counts so far."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return Tally(0, 0, 0)
        return Tally(dispatcher.calls, dispatcher.attempts, dispatcher.level)

    def close(self) -> None:
        """Stop the loop and its thread; a later call restarts them."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                return
            asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            self._loop = self._thread = self._dispatcher = None

    async def _produce(
        self,
        requests: Feed,
        deliver: Callable[[list[Answered]], None],
        unread: _Unread,
    ) -> None:
        collected: list[Answered] = []
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def flush() -> None:
            nonlocal collected, timer
            timer = None
            if collected:
                deliver(collected)
                collected = []

        def emit(index: int, answer: Completion) -> None:
            nonlocal timer
            collected.append((index, answer))
            unread.add()
            if len(collected) >= _MAX_COLLECTED:
                if timer is not None:
                    timer.cancel()
                flush()
            elif timer is None:
                timer = loop.call_later(_FLUSH_SECONDS, flush)

        try:
            with guarded(self._guard):
                if self._dispatcher is None:
                    self._dispatcher = self._build()
                await self._dispatcher.run(requests, emit, unread.wait)
        finally:
            if timer is not None:
                timer.cancel()
            flush()

    async def _shut_down(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._close()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = new_loop(self._guard)
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop, self._guard), name="nfilter-calls", daemon=True
                )
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, guard: HostGuard | None) -> None:
    guard_thread(guard)
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        with suppress(RuntimeError):
            loop.run_until_complete(loop.shutdown_asyncgens())
        # A hanging lookup must not delay the exit.
        loop.close()
