"""The call engine: sends requests concurrently and yields completions; every call ends in an answer or a recorded failure.

One event loop runs in its own thread for the engine's lifetime. State shared between calls (level, connections,
breaker) is used in that thread only.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from nfilter import Completion, Request
from nfilter_litellm.feed import Feed
from nfilter_litellm.host_guard import HostGuard, guard_thread, guarded, new_loop

_FLUSH_SECONDS = 0.05  # longest time for which answers are collected before delivery
_MAX_COLLECTED = 16  # answers that are delivered at once
_MAX_UNREAD = 32  # unread answers at which no call starts, because a kill would lose them
_IDLE_SECONDS = 0.05  # longest wait for an answer, while other conversations may go on
_WAIT_SECONDS = 0.5  # longest wait otherwise: a signal may arrive in another thread, and wakes none

Answered = tuple[int, Completion]
_Outcomes = queue.SimpleQueue[list[Answered] | Exception | None]


class Dispatches(Protocol):
    """Dispatcher of many calls in an engine's event loop."""

    attempts: int
    calls: int

    @property
    def running(self) -> int:
        """Return the number of calls whose end an error would wait for."""
        ...

    @property
    def level(self) -> int:
        """Return the maximum number of concurrent calls."""
        ...

    async def run(
        self,
        requests: Feed,
        emit: Callable[[int, Completion], None],
        room: Callable[[], Awaitable[None]],
        ending: Callable[[Exception], None],
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of an engine: completed calls, their attempts, and the current concurrency level."""

    calls: int
    attempts: int
    level: int


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


def _next(out: _Outcomes, seconds: float) -> list[Answered] | Exception | None:
    """Return the next answers, no answers after ``seconds``, the error that will end the calls, or None at the end."""
    try:
        return out.get(timeout=seconds)
    except queue.Empty:
        return []


def _rest(out: _Outcomes) -> Iterator[Answered]:
    """Yield the answers up to the end."""
    while (batch := out.get()) is not None:
        yield from batch if isinstance(batch, list) else ()


def _silent(_: Exception) -> AbstractContextManager[None]:
    return nullcontext()


class Engine:
    """Synchronous interface: a stage's thread submits requests, the loop's thread processes them."""

    def __init__(
        self,
        build: Callable[[], Dispatches],
        close: Callable[[], Coroutine[Any, Any, None]],
        guard: HostGuard | None = None,
        lose: Callable[[float], None] = lambda _: None,
        ending: Callable[[Exception], AbstractContextManager[None]] = _silent,
    ) -> None:
        """``build`` creates the dispatcher and ``close`` closes its transport, both in the loop's thread.

        ``guard`` restricts the connections of that thread. ``lose`` receives the dollars of answers that nobody reads. ``ending``
        is entered with the error of a call while others are still running, and left before the error is raised.
        """
        self._build = build
        self._close = close
        self._guard = guard
        self._lose = lose
        self._ending = ending
        self._dispatcher: Dispatches | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def stream(
        self, requests: Sequence[Request], more: Callable[[], Sequence[Request]] | None = None
    ) -> Generator[Answered | None, None, None]:
        """Yield (index, completion) in order of arrival; None whenever all answers so far were delivered.

        ``more`` is called after each answer and returns further requests, which start at once. Answers that precede an error are delivered before it is raised. Closing the generator cancels running calls.

        Raises:
            ModelError: calls failed for a shared reason.
        """
        if not requests:
            return
        out: _Outcomes = queue.SimpleQueue()
        tasks: list[asyncio.Task[None]] = []
        loop = self._running_loop()
        unread = _Unread()
        feed = Feed(requests, open_=more is not None)
        left = len(requests)

        def start() -> None:
            task = loop.create_task(self._produce(feed, out, unread))
            task.add_done_callback(_mark_read)
            task.add_done_callback(lambda _: out.put(None))
            tasks.append(task)

        loop.call_soon_threadsafe(start)
        completed = False
        unyielded: deque[Answered] = deque()
        ending = ExitStack()
        try:
            seconds = _WAIT_SECONDS if more is None else _IDLE_SECONDS
            while (batch := _next(out, seconds)) is not None:
                if isinstance(batch, Exception):
                    ending.enter_context(self._ending(batch))
                    continue
                unyielded.extend(batch)
                while unyielded:
                    yield unyielded.popleft()
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
            ending.close()
            if not completed:
                # A lambda, because the task may not exist yet.
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108
                self._drop([*unyielded, *_rest(out)])
        tasks[0].result()

    def _drop(self, unread: Sequence[Answered]) -> None:
        self._lose(sum(answer.usd or 0.0 for _, answer in unread))

    def running(self) -> int:
        """Return the number of calls that are running."""
        return self._dispatcher.running if self._dispatcher is not None else 0

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
        out: _Outcomes,
        unread: _Unread,
    ) -> None:
        collected: list[Answered] = []
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def flush() -> None:
            nonlocal collected, timer
            timer = None
            if collected:
                out.put(collected)
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
                await self._dispatcher.run(requests, emit, unread.wait, out.put)
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
