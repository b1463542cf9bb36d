"""The call engine: requests in, completions out as they come; every call ends in an answer or in a failure on record.

One event loop runs in a thread of its own for as long as the engine lives. What it shares between calls (level,
connections, breaker) is touched in that thread alone.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nfilter import BudgetError, Completion, Failure, ModelError, Request
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.failures import CallError
from nfilter_litellm.forms import Forms
from nfilter_litellm.gate import Gate
from nfilter_litellm.held import Hold, hold_thread, holding, new_loop
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.retry import Retry

_FLUSH = 0.05  # seconds for which answers are gathered before they are handed over
_HANDFUL = 16  # answers that are handed over at once
_AHEAD = (
    32  # answers that nobody has read yet: with more, no call begins, as a kill would lose them
)
_TIMEOUTS = 3  # attempts that may time out: each of them was long already

Answered = tuple[int, Completion]


async def _always() -> None:
    """There is room."""


class Transport(Protocol):
    """How one request is made, once."""

    async def call(self, request: Request) -> Completion:
        """The completion. Raises CallError."""
        ...

    async def close(self) -> None: ...


class Dispatches(Protocol):
    """What makes many calls, in the event loop of an engine."""

    attempts: int
    calls: int

    @property
    def level(self) -> int:
        """How many calls may be out."""
        ...

    async def run(
        self,
        requests: Sequence[Request],
        emit: Callable[[int, Completion], None],
        room: Callable[[], Awaitable[None]],
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Tally:
    """What an engine has done so far: calls that ended, attempts they took, and the level it has found."""

    calls: int
    attempts: int
    level: int


class Dispatcher:
    """The asynchronous half: many calls at a time, each tried until it ends."""

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        retry: Retry,
        breaker: Breaker,
        drained: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once ``drained`` is true no attempt begins any more; calls that are out end as they do."""
        self.limiter = limiter
        self._transport = transport
        self._retry = retry
        self._breaker = breaker
        self._drained = drained
        # The server says when it takes calls again: it is worth asking every 8 s.
        self._pause = replace(retry, most=16 * retry.base)
        self._gate = Gate(limiter)
        self._forms = Forms(transport)
        # Sets of calls that are not all begun: as long as there is one, the level is what holds them back.
        self._feeding = 0
        self.attempts = 0
        self.calls = 0

    @property
    def level(self) -> int:
        """How many calls may be out now."""
        return self.limiter.level

    async def run(
        self,
        requests: Sequence[Request],
        emit: Callable[[int, Completion], None],
        room: Callable[[], Awaitable[None]] = _always,
    ) -> None:
        """Make all calls; ``emit`` has each as it ends, and none begins before ``room`` is over.

        Raises:
            ModelError: when the breaker ends the run; the calls that are out are given up.
        """
        self.limiter.begin()
        try:
            async with asyncio.TaskGroup() as group:
                self._feeding += 1
                try:
                    for index, request in enumerate(requests):
                        await room()
                        ticket = await self._gate.enter()
                        if self._drained():
                            self._gate.leave()
                            break
                        group.create_task(self._one(index, request, ticket, emit))
                finally:
                    self._feeding -= 1
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        self._breaker.finished()

    async def _one(
        self, index: int, request: Request, ticket: int, emit: Callable[[int, Completion], None]
    ) -> None:
        course = _Course(self._retry, self._pause, f"{request.sample_id}\x1f{index}")
        while True:
            answer = await self._attempt(request, ticket, course)
            if answer is not None:
                self.calls += 1
                emit(index, course.charged(answer))
                self._breaker.heed()
                return
            ticket = await self._gate.rest(course.delay)
            if self._drained():
                self._gate.leave()
                return

    async def _attempt(self, request: Request, ticket: int, course: _Course) -> Completion | None:
        """The end of a call, or None where it is to be tried again after ``course.delay``."""
        clock = asyncio.get_running_loop().time
        began = clock()
        self.attempts += 1
        try:
            answer = await self._transport.call(request)
            self.limiter.answered(ticket, clock() - began, full=self._feeding > 0)
            if answer.failure is None:
                self._breaker.answered()
            else:
                self._breaker.silent(answer.failure.detail)
            self._forms.works(request)
        except CallError as error:
            course.usd += error.usd
            fault = self._in_time(error)
            if fault.spoken:
                self._forms.works(request)
            self._weigh(fault, ticket, clock() - began)
            if course.goes_on(fault, clock()):
                return None
            if not fault.own or await self._forms.at_fault(request, course.pays):
                self._breaker.failed(fault)
            return Completion("", "failed", failure=Failure(fault.kind, course.told(fault)))
        else:
            return answer
        finally:
            self._gate.leave()

    def _in_time(self, fault: CallError) -> CallError:
        """The fault, or one that is final where the server asks for more time than a call has."""
        if fault.after is None or fault.after <= self._retry.patience:
            return fault
        detail = f"{fault.detail}; the server asks to wait {fault.after:.0f} s"
        return CallError(fault.kind, detail, stops=True)

    def _weigh(self, fault: CallError, ticket: int, seconds: float) -> None:
        if fault.effect == "limited":
            outage = self.limiter.limited(ticket)
            if outage:
                self._gate.shut(self._pause.delay("outage", outage, fault.after))
        elif fault.effect == "strained":
            self.limiter.strained()
        else:
            self.limiter.answered(ticket, seconds, full=self._feeding > 0)


class _Course:
    """How far one call has come. ``usd`` is what its failed attempts cost."""

    def __init__(self, retry: Retry, pause: Retry, key: str) -> None:
        self.delay = 0.0
        self.usd = 0.0
        self._retry = retry
        self._pause = pause
        self._key = key
        self._failed = 0
        self._timeouts = 0
        self._turned_away = 0
        self._until: float | None = None

    def pays(self, usd: float) -> None:
        """Count what was spent for this call beside its attempts."""
        self.usd += usd

    def charged(self, answer: Completion) -> Completion:
        """The answer with the cost of all attempts; without a price nothing is known of it."""
        if not self.usd:
            return answer
        return replace(answer, usd=self.usd + (answer.usd or 0.0))

    def goes_on(self, fault: CallError, now: float) -> bool:
        """Whether another attempt is due; ``delay`` then says after how many seconds."""
        if not fault.again:
            return False
        if fault.effect == "limited":
            return self._waits(fault, now)
        self._failed += 1
        self._timeouts += fault.kind == "timeout"
        self.delay = self._retry.delay(self._key, self._failed, fault.after)
        return self._failed < self._retry.attempts and self._timeouts < _TIMEOUTS

    def _waits(self, fault: CallError, now: float) -> bool:
        self._turned_away += 1
        if self._until is None:
            self._until = now + self._retry.patience
        self.delay = self._pause.delay(self._key, self._turned_away, fault.after)
        goes_on = now + self.delay <= self._until
        # Nobody is let in for so long: that is the account's matter, not this call's.
        fault.stops = not goes_on
        return goes_on

    def told(self, fault: CallError) -> str:
        """What goes on record: the last fault, and how often the call was tried."""
        if not fault.again:
            return fault.detail
        if fault.effect == "limited":
            return f"{fault.detail} (turned away {self._turned_away} times)"
        return f"{fault.detail} (attempt {self._failed})"


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group is told by: the run's own, where there is one."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        named = [one for one in error.exceptions if isinstance(one, ModelError | BudgetError)]
        error = named[0] if named else error.exceptions[0]
    return error


class _Unread:
    """How many answers wait to be read, so that calls do not run ahead of what is kept. For one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._read = asyncio.Event()

    def more(self) -> None:
        """One came."""
        self._count += 1

    def less(self, count: int) -> None:
        """So many were read."""
        self._count -= count
        self._read.set()

    async def room(self) -> None:
        """Wait until few are left."""
        while self._count >= _AHEAD:
            self._read.clear()
            await self._read.wait()


class Engine:
    """The synchronous half: a stage's thread asks, the loop's thread works."""

    def __init__(
        self,
        build: Callable[[], Dispatches],
        close: Callable[[], Coroutine[Any, Any, None]],
        hold: Hold | None = None,
    ) -> None:
        """``build`` makes the dispatcher, ``close`` ends its transport; both are called in the loop's thread.

        ``hold`` is what that thread may connect to.
        """
        self._build = build
        self._close = close
        self._hold = hold
        self._dispatcher: Dispatches | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def stream(self, requests: Sequence[Request]) -> Iterator[Answered | None]:
        """Completions as they come, each with its request's index; None where all that came was handed over.

        What was answered before the run is ended by an error is handed over first. Leaving early gives up what is out.

        Raises:
            ModelError: when calls fail for a reason that the others share.
        """
        if not requests:
            return
        out: queue.SimpleQueue[list[Answered] | None] = queue.SimpleQueue()
        tasks: list[asyncio.Task[None]] = []
        loop = self._running()
        unread = _Unread()

        def begin() -> None:
            task = loop.create_task(self._produce(list(requests), out.put, unread))
            task.add_done_callback(lambda _: out.put(None))
            tasks.append(task)

        loop.call_soon_threadsafe(begin)
        ended = False
        try:
            while (batch := out.get()) is not None:
                yield from batch
                loop.call_soon_threadsafe(unread.less, len(batch))
                if out.empty():
                    yield None
            ended = True
        finally:
            if not ended:
                # In a lambda: the task may not have been made yet.
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108
                while out.get() is not None:
                    pass
        tasks[0].result()

    def tally(self) -> Tally:
        """What was done so far."""
        made = self._dispatcher
        if made is None:
            return Tally(0, 0, 0)
        return Tally(made.calls, made.attempts, made.level)

    def close(self) -> None:
        """End the loop and its thread; a later call starts anew."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                return
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            self._loop = self._thread = self._dispatcher = None

    async def _produce(
        self,
        requests: Sequence[Request],
        hand_over: Callable[[list[Answered]], None],
        unread: _Unread,
    ) -> None:
        gathered: list[Answered] = []
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def flush() -> None:
            nonlocal gathered, timer
            timer = None
            if gathered:
                hand_over(gathered)
                gathered = []

        def emit(index: int, answer: Completion) -> None:
            nonlocal timer
            gathered.append((index, answer))
            unread.more()
            if len(gathered) >= _HANDFUL:
                if timer is not None:
                    timer.cancel()
                flush()
            elif timer is None:
                timer = loop.call_later(_FLUSH, flush)

        try:
            with holding(self._hold):
                if self._dispatcher is None:
                    self._dispatcher = self._build()
                await self._dispatcher.run(requests, emit, unread.room)
        finally:
            if timer is not None:
                timer.cancel()
            flush()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = new_loop(self._hold)
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop, self._hold), name="nfilter-calls", daemon=True
                )
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, hold: Hold | None) -> None:
    hold_thread(hold)
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        with suppress(RuntimeError):
            loop.run_until_complete(loop.shutdown_asyncgens())
        # A look-up that hangs must not hold up the end.
        loop.close()
