"""Calls in batches: submitted together, polled until they end, and paid once even if the run is killed.

A batch has four steps, each recorded before the next: upload the file, create the batch, record its id, read the
results. A run that was killed in between resumes the batch at the next step.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nfilter import Budget, Completion, Failure, ModelError
from nfilter_litellm.batch_api import FINAL_STATUSES, MAX_LINES, Batch, BatchApi
from nfilter_litellm.batch_ledger import Ledger, Pending
from nfilter_litellm.batch_lines import BatchFormat, Call
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.dispatcher import root_error
from nfilter_litellm.failures import CallError, text_rejects
from nfilter_litellm.feed import Feed
from nfilter_litellm.limit_field import remedy
from nfilter_litellm.retry import Retry

_POLL_SECONDS = 0.2  # between two checks of Ctrl-C and the budget
_MAX_LOST = 8  # calls of a batch that may all lack a line by chance

T = TypeVar("T")
Emit = Callable[[int, Completion], None]


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Maximum size of a batch, polling delays in seconds, and the time limit ``window``: the batch's day plus two hours."""

    max_lines: int = MAX_LINES
    max_bytes: int = 200_000_000
    first_delay: float = 2.0
    growth: float = 1.5
    max_delay: float = 60.0
    window: float = 26 * 3600.0


@dataclass(slots=True)
class _Reading:
    """Progress in a batch's results: ``left`` has no line yet; ``lines`` counts the lines of ``all_ids``."""

    all_ids: frozenset[str]
    left: set[str]
    faults: dict[str, CallError] = field(default_factory=dict)
    paid: float = 0.0
    lines: int = 0
    unanswered: list[str] = field(default_factory=list)

    def failed(self, name: str, call: Call, fault: CallError) -> None:
        """Record the fault of a call and its cost."""
        self.faults[name] = fault
        self.paid += fault.usd
        call.usd += fault.usd


class _StoppedError(Exception):
    """The user stopped the run: submitted batches stay on the server."""


@dataclass(eq=False)
class BatchDispatcher:
    """Dispatcher that makes calls in batches, in the event loop of an engine.

    ``label`` names the model and its address in errors. Once ``stopping`` returns True, no batch is created or waited for.
    """

    api: BatchApi
    format: BatchFormat
    ledger: Ledger
    label: str
    retry: Retry
    settings: BatchSettings
    stopping: Callable[[], bool]
    attempts: int = 0
    calls: int = 0
    answered: bool = False

    def __post_init__(self) -> None:
        self.level = self.settings.max_lines
        self.breaker = Breaker(self.label)

    @property
    def running(self) -> int:
        """Return 0: an error waits for no batch, which stays on the server."""
        return 0

    async def run(
        self,
        requests: Feed,
        emit: Emit,
        room: Callable[[], Awaitable[None]],
        ending: Callable[[Exception], None] | None = None,
    ) -> None:
        """Make all calls, first those in unfinished batches of an earlier run. ``ending`` is not called.

        Raises:
            ModelError: a batch failed as a whole, or all its calls; answers of others were delivered.
            BudgetError: the remaining budget covers no call.
        """
        del ending
        calls = self.format.calls(requests.take_all())
        work = _BatchRun(self, calls, emit, room)
        resumed = self.ledger.resume(calls)
        known = {each for pending in resumed for each in pending.ids}
        try:
            async with asyncio.TaskGroup() as group:
                for pending in resumed:
                    bound = sum(calls[each].max_usd for each in pending.ids)
                    if self.format.pricing.budget is not None:
                        self.format.pricing.budget.hold_uncapped(bound)
                    group.create_task(work.follow(group, pending, bound, 0))
                await work.submit(group, [each for each in calls if each not in known], 1, 1)
        except BaseExceptionGroup as errors:
            raise root_error(errors) from None
        finally:
            if self.format.pricing.budget is not None:
                lost = sum(call.lost for call in calls.values())
                self.format.pricing.budget.lose(lost, recoverable=True)
        if not self.stopping():
            self.breaker.finished()


@dataclass(eq=False)
class _BatchRun:
    """Execution of one set of calls in batches."""

    dispatcher: BatchDispatcher
    calls: Mapping[str, Call]
    emit: Emit
    room: Callable[[], Awaitable[None]]

    @property
    def _budget(self) -> Budget | None:
        return self.dispatcher.format.pricing.budget

    async def submit(
        self,
        group: asyncio.TaskGroup,
        ids: list[str],
        turn: int,
        tried: int,
        failed: Pending | None = None,
    ) -> None:
        """Create batches of calls, each when the budget covers all of it.

        ``turn`` counts the submissions of the calls in all runs, ``tried`` those in this run; 0 is an earlier run's batch.
        ``failed`` is the batch in which the calls failed.
        """
        dispatcher = self.dispatcher
        budget = self._budget
        with suppress(_StoppedError):
            while ids and not dispatcher.stopping():
                part, bound = self._next_part(ids)
                if budget is not None and not budget.hold(bound, recoverable=True):
                    await self._wait(_POLL_SECONDS)
                    continue
                ids = ids[len(part) :]
                dispatcher.attempts += len(part)
                try:
                    pending = await self._upload(part, turn)
                except BaseException:
                    if budget is not None:
                        budget.settle(bound, 0.0, recoverable=True)
                    raise
                if failed is not None:
                    self._replace_batch(failed, part)
                group.create_task(self.follow(group, pending, bound, tried))

    def _replace_batch(self, failed: Pending, ids: Sequence[str]) -> None:
        """Record that calls are in another batch now: a later run reads that one."""
        self.dispatcher.ledger.mark_read(replace(failed, ids=tuple(ids)))
        for each in ids:
            self.calls[each].lost = self.calls[each].usd

    def _next_part(self, ids: Sequence[str]) -> tuple[list[str], float]:
        """Return the first of ``ids`` that fit into one file and the remaining budget, and their cost bound."""
        settings, budget = self.dispatcher.settings, self._budget
        part: list[str] = []
        bound, size = 0.0, 0
        for each in ids[: settings.max_lines]:
            call = self.calls[each]
            too_large = size + len(call.line) > settings.max_bytes
            if part and (too_large or (budget is not None and bound + call.max_usd > budget.left)):
                break
            part.append(each)
            bound += call.max_usd
            size += len(call.line)
        return part, bound

    async def _upload(self, ids: Sequence[str], turn: int) -> Pending:
        lines = b"".join(self.calls[each].line for each in ids)
        file = await self._with_retries(
            "the file of a batch cannot be uploaded",
            lambda: self.dispatcher.api.upload(lines),
            hint="; a server without /files and /batches supports only single calls: remove batch: true",
        )
        name = hashlib.sha256("\x1f".join((file, str(turn), *ids)).encode()).hexdigest()[:32]
        pending = Pending(name, file, None, turn, tuple(ids))
        self.dispatcher.ledger.record(pending)
        return pending

    async def follow(
        self, group: asyncio.TaskGroup, pending: Pending, bound: float, tried: int
    ) -> None:
        """Wait for a batch, read its results, and submit the calls to retry."""
        budget = self._budget
        # A batch that stays on the server may be billed in full; one that is not created is not billed.
        usd = 0.0 if tried and self.dispatcher.stopping() else bound
        retries: list[str] = []
        with suppress(_StoppedError):
            try:
                pending, batch = await self._wait_until_ended(pending, new=tried > 0)
                usd, retries = await self._read(pending, batch, tried)
            finally:
                if budget is not None:
                    budget.settle(bound, usd, recoverable=True)
            self.dispatcher.breaker.check_unanswered()
            await self.submit(group, retries, pending.turn + 1, tried + 1, pending)

    async def _wait_until_ended(self, pending: Pending, *, new: bool) -> tuple[Pending, Batch]:
        """Create the batch if necessary, and wait until it has ended."""
        dispatcher = self.dispatcher
        if pending.batch is None:
            # Ctrl-C may have been pressed during the upload.
            await self._wait(0.0)
            pending = replace(pending, batch=await self._create_once(pending, new=new))
            dispatcher.ledger.record(pending)
        name = pending.batch or ""
        delay = dispatcher.settings.first_delay
        clock = asyncio.get_running_loop().time
        until = clock() + dispatcher.settings.window
        while True:
            batch = await self._with_retries(
                f"the status of batch {name} cannot be read{self._restart_hint(pending)}",
                lambda: dispatcher.api.retrieve(name),
                patient=True,
            )
            if batch.status in FINAL_STATUSES:
                return pending, batch
            if clock() >= until:
                raise ModelError(
                    f"{dispatcher.label}: batch {name} has not ended within {dispatcher.settings.window / 3600:.2g} hours; "
                    f"its status is {batch.status!r}. The same command checks it again{self._restart_hint(pending)}"
                )
            await self._wait(delay)
            delay = min(delay * dispatcher.settings.growth, dispatcher.settings.max_delay)

    def _restart_hint(self, pending: Pending) -> str:
        """Return the remedy for a batch or file that the server no longer has."""
        location = self.dispatcher.ledger.location(pending)
        return f" (its record is {location}: remove that file to repeat its calls)"

    async def _create_once(self, pending: Pending, *, new: bool) -> str:
        """Return the id of a file's batch; create it once, even if an earlier reply with its id was lost."""
        api = self.dispatcher.api

        async def find_or_create() -> str:
            nonlocal new
            existing = None if new else await api.find_by_file(pending.file)
            new = False
            return existing or await api.create(pending.file)

        return await self._with_retries("a batch cannot be created", find_or_create)

    async def _read(self, pending: Pending, batch: Batch, tried: int) -> tuple[float, list[str]]:
        """Deliver a batch's answers; return its cost and the calls to retry.

        Raises:
            ModelError: the batch failed as a whole, was cancelled, or answered no call.
        """
        dispatcher = self.dispatcher
        reading = _Reading(dispatcher.ledger.all_ids(pending), set(pending.ids))
        for file in batch.files:
            await self._with_retries(
                f"the results of batch {batch.name} cannot be read{self._restart_hint(pending)}",
                lambda file=file: self._lines(file, reading),  # type: ignore[misc]
                patient=True,
            )
        # An earlier run reported its own batch: its calls are repeated.
        if tried:
            self._raise_for(batch)
        if batch.status == "completed" and not reading.lines and len(reading.all_ids) > _MAX_LOST:
            raise ModelError(
                f"{dispatcher.label}: batch {batch.name} is completed, but its results have no line for any of its "
                f"{len(reading.all_ids)} calls. They may be billed, so they are not repeated automatically: the same command "
                f"reads the results again{self._restart_hint(pending)}"
            )
        for name in reading.left:
            detail = f"batch {batch.name} ({batch.status}) has no line for this call"
            billed = batch.status == "completed"
            fault = CallError("server", detail, retry=True, may_be_billed=billed)
            fault.usd = self.calls[name].max_usd if fault.may_be_billed else 0.0
            reading.failed(name, self.calls[name], fault)
        for detail in reading.unanswered:
            dispatcher.breaker.unanswered(detail)
        retries = self._record_failures(pending, reading.faults, tried)
        retried = set(retries)
        done = tuple(each for each in pending.ids if each not in retried)
        dispatcher.ledger.mark_read(replace(pending, ids=done))
        return reading.paid, retries

    def _raise_for(self, batch: Batch) -> None:
        """Raise ModelError for a failed or cancelled batch: the next one would end equally."""
        label = self.dispatcher.label
        if batch.status == "failed":
            name = self.dispatcher.format.limit.name
            rejected = text_rejects(batch.errors, name)
            errors = f"{batch.errors}; {remedy(name)}" if rejected else batch.errors
            raise ModelError(
                f"{label}: batch {batch.name} failed: {errors or 'the server gives no reason'}. Once the cause is fixed, the "
                "same command continues where it stopped; if a batch is too large, a smaller chunk: makes smaller batches"
            )
        if batch.status == "cancelled":
            raise ModelError(
                f"{label}: batch {batch.name} was cancelled on the server. Its answers are stored; the same command repeats "
                "the other calls"
            )

    async def _lines(self, file: str, reading: _Reading) -> None:
        """Read one file until all calls have a line; lines read before a lost connection are not delivered twice.

        Raises:
            _StoppedError: the user stopped the run.
        """
        if not reading.left:
            return
        async with aclosing(self.dispatcher.api.lines(file)) as lines:
            async for line in lines:
                if self.dispatcher.stopping():
                    raise _StoppedError
                name = line.get("custom_id")
                if not isinstance(name, str):
                    continue
                reading.lines += name in reading.all_ids
                if name in reading.left:
                    reading.left.remove(name)
                    await self._process_line(name, line, reading)
                    if not reading.left:
                        return

    async def _process_line(self, name: str, line: Mapping[str, Any], reading: _Reading) -> None:
        """Deliver the answer in a line; record a fault until all lines are read."""
        call = self.calls[name]
        try:
            answer = self.dispatcher.format.answer(call, line)
        except CallError as fault:
            reading.failed(name, call, fault)
            if fault.is_answer:
                self._mark_answered()
            return
        reading.paid += answer.usd or 0.0
        if answer.failure is None:
            self._mark_answered()
        else:
            reading.unanswered.append(answer.failure.detail)
        await self._deliver(call, answer)

    def _mark_answered(self) -> None:
        self.dispatcher.answered = True
        self.dispatcher.breaker.answered()

    def _record_failures(
        self, pending: Pending, faults: Mapping[str, CallError], tried: int
    ) -> list[str]:
        """Emit final failures; return the ids of the calls to retry."""
        dispatcher = self.dispatcher
        retries: list[str] = []
        final: list[CallError] = []
        for name, fault in faults.items():
            # Failures in an earlier run's batch are retried, as failures of its single calls would be.
            if (
                (fault.retry and tried < dispatcher.retry.attempts)
                if tried
                else not fault.is_answer
            ):
                retries.append(name)
                continue
            final.append(fault)
            attempts = f" (attempt {tried})" if fault.retry else ""
            failure = Failure(fault.kind, f"{fault.detail}{attempts}")
            self._emit_all(self.calls[name], Completion("", "failed", failure=failure))
        # Lines are not in order of time, so consecutive failures mean nothing. The run ends at a batch without any answer,
        # if the reason is shared or the model has never answered.
        if len(faults) == len(pending.ids):
            for fault in final:
                if (fault.shared and not fault.maybe_prompt) or not dispatcher.answered:
                    dispatcher.breaker.failed(fault)
        return retries

    async def _deliver(self, call: Call, answer: Completion) -> None:
        await self.room()
        self._emit_all(call, answer)

    def _emit_all(self, call: Call, answer: Completion) -> None:
        usd = (answer.usd or 0.0) + call.usd
        first = replace(answer, usd=usd) if usd or answer.usd is not None else answer
        call.usd = call.lost = 0.0
        for number, index in enumerate(call.indices):
            self.dispatcher.calls += 1
            self.emit(index, first if number == 0 else replace(answer, usd=0.0))

    async def _with_retries(
        self,
        failure: str,
        step: Callable[[], Awaitable[T]],
        *,
        patient: bool = False,
        hint: str = "",
    ) -> T:
        """Run a step with the retries of calls; a ``patient`` one is retried as long as a call after a 429.

        Raises:
            ModelError: with ``failure`` and the reason.
        """
        retry = self.dispatcher.retry
        clock = asyncio.get_running_loop().time
        number, until = 0, clock() + retry.patience
        while True:
            try:
                return await step()
            except CallError as fault:
                number += 1
                exhausted = number >= retry.attempts
                # An invalid reply does not become valid with time.
                if fault.effect == "limited" or (patient and fault.kind != "parse"):
                    exhausted = clock() >= until
                detail = fault.detail if fault.retry else f"{fault.detail}{hint}"
                if fault.retry_after is not None and fault.retry_after > retry.patience:
                    exhausted = True
                    detail = f"{detail}; the server asks to wait {fault.retry_after:.0f} s"
                if not fault.retry or exhausted:
                    raise ModelError(
                        f"{self.dispatcher.label}: {failure}: {detail}. The same command continues where it stopped"
                    ) from None
                await self._wait(retry.delay(failure, number, fault.retry_after))

    async def _wait(self, seconds: float) -> None:
        """Wait; raise _StoppedError as soon as the user stops the run."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while True:
            if self.dispatcher.stopping():
                raise _StoppedError
            remaining = until - clock()
            if remaining <= 0:
                return
            await asyncio.sleep(min(remaining, _POLL_SECONDS))
