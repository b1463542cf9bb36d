"""The dispatcher of single calls: starts them as slots are free, retries each until it ends, and ends all at a shared fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from nfilter import BudgetError, Completion, Failure, ModelError, Request
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.failures import CallError
from nfilter_litellm.feed import Feed
from nfilter_litellm.gate import Gate
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.request_shapes import RequestShapes
from nfilter_litellm.retry import Retry

_MAX_TIMEOUTS = 3  # attempts that may time out: each takes long
_POLL_SECONDS = 0.2  # between two checks whether the run is stopped


async def _no_wait() -> None:
    """Return at once."""


def _ignore(_: Exception) -> None:
    """Do nothing."""


class NotStartedError(Exception):
    """No attempt was started, because none may start any more."""


class Transport(Protocol):
    """Sender of single attempts."""

    async def call(self, request: Request) -> Completion:
        """Return the completion; raise CallError, or NotStartedError before the attempt."""
        ...

    async def close(self) -> None: ...


@dataclass(eq=False)
class _Run:
    """One set of calls. Once ``end`` is called, no attempt starts, and running attempts complete."""

    requests: Feed
    emit: Callable[[int, Completion], None]
    room: Callable[[], Awaitable[None]]
    ending: Callable[[Exception], None]
    ended: bool = False
    error: Exception | None = None
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)

    def end(self, error: Exception | None = None) -> None:
        """Cancel the tasks that wait to start an attempt. The first ``error`` is raised when the running attempts are complete."""
        if self.error is None and error is not None:
            self.error = error
            self.ending(error)
        self.ended = True
        for task in self._waiting:
            task.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In the block, this task waits to start an attempt."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)


class Dispatcher:
    """Asynchronous dispatcher: runs calls concurrently and retries each until it ends."""

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        retry: Retry,
        breaker: Breaker,
        stopping: Callable[[], bool] = lambda: False,
        lose: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Once ``stopping`` returns True, no attempt starts; running ones complete.

        ``lose`` receives the dollars that were paid for calls without a completion.
        """
        self.limiter = limiter
        self._transport = transport
        self._retry = retry
        self._breaker = breaker
        self._stopping = stopping
        self._lose = lose
        # After a 429 the server recovers by itself: try at least every 8 s.
        self._pause = replace(retry, max_delay=16 * retry.base)
        self._gate = Gate(limiter)
        self._shapes = RequestShapes(transport)
        self._runs: list[_Run] = []
        # Number of requests that wait to be started; while positive, the level is the bottleneck.
        self._feeding = 0
        self.attempts = 0
        self.calls = 0

    @property
    def level(self) -> int:
        """Return the current maximum number of concurrent calls."""
        return self.limiter.level

    @property
    def running(self) -> int:
        """Return the number of calls that are running; one that waits for another attempt is not."""
        return self._gate.running

    def stopped(self) -> bool:
        """Return whether the user stopped the run, or a call ended its set of calls."""
        return any(self._is_stopped(run) for run in self._runs)

    def _is_stopped(self, run: _Run) -> bool:
        return run.ended or self._stopping()

    async def run(
        self,
        requests: Feed,
        emit: Callable[[int, Completion], None],
        room: Callable[[], Awaitable[None]] = _no_wait,
        ending: Callable[[Exception], None] = _ignore,
    ) -> None:
        """Make all calls; pass each completion to ``emit``; await ``room`` before each start.

        ``ending`` receives the error that will be raised, at once, while other calls are still running.

        Raises:
            ModelError: the breaker ended the run; the answers of the attempts that were running have been emitted.
            BudgetError: the budget does not cover the next attempt.
        """
        self.limiter.begin()
        run = _Run(requests, emit, room, ending)
        self._runs.append(run)
        watching = asyncio.create_task(self._watch(run))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_all(run, group))
        except BaseExceptionGroup as errors:
            raise root_error(errors) from None
        finally:
            watching.cancel()
            self._runs.remove(run)
        if run.error is not None:
            raise run.error
        self._breaker.finished()

    async def _watch(self, run: _Run) -> None:
        """End the run when the user stops it: what waits for a slot or for another attempt is not running."""
        # The user stops it in another thread, so an event of this loop cannot notify.
        while not self._stopping():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        run.end()

    async def _start_all(self, run: _Run, group: asyncio.TaskGroup) -> None:
        with run.waiting():
            async for index, request in run.requests:
                ticket = await self._start(run.room)
                if self._is_stopped(run):
                    self._gate.leave()
                    return
                slot = _Slot(ticket)
                call = self._call(run, index, request, slot)
                group.create_task(call).add_done_callback(partial(self._give_back, slot))

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

    async def _call(self, run: _Run, index: int, request: Request, slot: _Slot) -> None:
        ticket = slot.take()
        state = _CallState(self._retry, self._pause, f"{request.sample_id}\x1f{index}")
        try:
            await self._call_until_ended(run, index, request, ticket, state)
        finally:
            # The attempts of a call that ends without a completion were paid for.
            self._lose(state.usd)

    async def _call_until_ended(
        self, run: _Run, index: int, request: Request, ticket: int, state: _CallState
    ) -> None:
        while not self._is_stopped(run):
            try:
                answer = await self._attempt(run, request, ticket, state)
                if answer is not None:
                    self.calls += 1
                    run.emit(index, state.charged(answer))
                    self._breaker.check_unanswered()
                    return
            except Exception as error:  # noqa: BLE001
                # Raised at once, it would cancel the running attempts, whose answers are paid for.
                run.end(error)
                return
            if self._is_stopped(run):
                return
            with run.waiting():
                ticket = await self._gate.wait_and_reenter(state.delay)
        self._gate.leave()

    async def _attempt(
        self, run: _Run, request: Request, ticket: int, state: _CallState
    ) -> Completion | None:
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
            if not fault.maybe_prompt or await self._is_shape_rejected(run, request, state):
                self._breaker.failed(fault)
            failure = Failure(fault.kind, state.describe(fault))
            return Completion("", "failed", None, *fault.tokens, failure)
        except NotStartedError:
            self.attempts -= 1
            return None
        else:
            return answer
        finally:
            self._gate.leave()

    async def _is_shape_rejected(self, run: _Run, request: Request, state: _CallState) -> bool:
        """Return whether calls of this shape are rejected; False once the run is stopped, because the probe is a call too."""
        stopped = partial(self._is_stopped, run)
        try:
            return not stopped() and await self._shapes.is_rejected(
                request, state.add_cost, stopped
            )
        except NotStartedError:
            return False

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
    """Retry state of one call; ``usd`` is the cost of its failed attempts, until a completion has it."""

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

    def charged(self, answer: Completion) -> Completion:
        """Return the answer with the cost of all attempts added, which this state then has no longer."""
        usd, self.usd = self.usd, 0.0
        return replace(answer, usd=usd + (answer.usd or 0.0)) if usd else answer

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
