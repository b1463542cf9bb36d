"""Calls in batches: handed to the server together, looked at until they are done, and paid once whatever happens.

A batch goes through four steps, each on record before the next begins: its file is brought, the batch is asked for, its name
is known, its lines are read. A run that was killed between any two of them takes the batch up at the next one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nfilter import Completion, Failure, ModelError, Request
from nfilter_litellm.batch_api import ENDED, MOST_LINES, Batch, BatchApi
from nfilter_litellm.batch_lines import Call, Form
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.engine import first_of
from nfilter_litellm.failures import CallError
from nfilter_litellm.limits import names, remedy
from nfilter_litellm.pending import Ledger, Pending
from nfilter_litellm.retry import Retry

_BLINK = 0.2  # seconds between two looks at Ctrl-C and at the budget
_FEW = 8  # calls of a batch that may all get lost by chance

T = TypeVar("T")
Emit = Callable[[int, Completion], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How large a batch may be, in lines and bytes, how often it is looked at, and for how long.

    All times are seconds; those between two looks grow from ``first`` to ``most``. The ``window`` is the day that a batch
    is given to end in, and two hours more.
    """

    lines: int = MOST_LINES
    size: int = 200_000_000
    first: float = 2.0
    growth: float = 1.5
    most: float = 60.0
    window: float = 26 * 3600.0


@dataclass(slots=True)
class _Reading:
    """How far the results of a batch are read: calls without a line yet, what failed, what it cost, lines of ``ours``."""

    ours: frozenset[str]
    left: set[str]
    faults: dict[str, CallError] = field(default_factory=dict)
    paid: float = 0.0
    lines: int = 0
    silent: list[str] = field(default_factory=list)

    def failed(self, name: str, call: Call, fault: CallError) -> None:
        """A call has failed, and its fault says what that cost."""
        self.faults[name] = fault
        self.paid += fault.usd
        call.usd += fault.usd


class _LeftError(Exception):
    """A person ends the run: what is out stays with the server."""


class BatchDispatcher:
    """Makes calls in batches, in the event loop of an engine."""

    def __init__(
        self,
        api: BatchApi,
        form: Form,
        ledger: Ledger,
        who: str,
        retry: Retry,
        pace: Pace,
        drained: Callable[[], bool],
    ) -> None:
        """``who`` names the model and where it is, for errors.

        Once ``drained`` is true, no batch begins any more and none is waited for.
        """
        self.attempts = 0
        self.calls = 0
        self.level = pace.lines
        self.api = api
        self.form = form
        self.ledger = ledger
        self.who = who
        self.retry = retry
        self.pace = pace
        self.drained = drained
        self.breaker = Breaker(who)
        self.heard = False

    async def run(
        self, requests: Sequence[Request], emit: Emit, room: Callable[[], Awaitable[None]]
    ) -> None:
        """Make all calls, those first that an earlier run has left in batches.

        Raises:
            ModelError: when a batch fails as a whole, or every call in it; what others answered was handed over.
            BudgetError: when what is left covers no call.
        """
        calls = self.form.calls(requests)
        work = _Work(self, calls, emit, room)
        left = self.ledger.take_up(calls)
        known = {each for pending in left for each in pending.ids}
        try:
            async with asyncio.TaskGroup() as group:
                for pending in left:
                    most = sum(calls[each].most for each in pending.ids)
                    if self.form.till.budget is not None:
                        self.form.till.budget.owe(most)
                    group.create_task(work.follow(group, pending, most, 0))
                await work.ask(group, [each for each in calls if each not in known], 1, 1)
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        if not self.drained():
            self.breaker.finished()


class _Work:
    """One set of calls on its way through batches."""

    def __init__(
        self,
        home: BatchDispatcher,
        calls: Mapping[str, Call],
        emit: Emit,
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._home = home
        self._calls = calls
        self._emit = emit
        self._room = room
        self._budget = home.form.till.budget

    async def ask(self, group: asyncio.TaskGroup, ids: list[str], turn: int, tried: int) -> None:
        """Make batches of calls, each when there is money for all of it.

        ``turn`` says how often they were asked in all, ``tried`` how often by this run; 0 is an earlier one's batch.
        """
        home = self._home
        budget = self._budget
        with suppress(_LeftError):
            while ids and not home.drained():
                part, most = self._part(ids)
                if budget is not None and not budget.hold(most):
                    await self._rest(_BLINK)
                    continue
                ids = ids[len(part) :]
                home.attempts += len(part)
                try:
                    pending = await self._brought(part, turn)
                except BaseException:
                    if budget is not None:
                        budget.settle(most, 0.0)
                    raise
                group.create_task(self.follow(group, pending, most, tried))

    def _part(self, ids: Sequence[str]) -> tuple[list[str], float]:
        """The first of ``ids`` that make one file and are covered by what is left, and what they cost at most."""
        pace, budget = self._home.pace, self._budget
        part: list[str] = []
        most, size = 0.0, 0
        for each in ids[: pace.lines]:
            call = self._calls[each]
            over = size + len(call.line) > pace.size
            if part and (over or (budget is not None and most + call.most > budget.left)):
                break
            part.append(each)
            most += call.most
            size += len(call.line)
        return part, most

    async def _brought(self, ids: Sequence[str], turn: int) -> Pending:
        lines = b"".join(self._calls[each].line for each in ids)
        file = await self._tried(
            "the file of a batch cannot be brought",
            lambda: self._home.api.upload(lines),
            hint="; a server without /files and /batches takes single calls alone: leave batch: true out for it",
        )
        name = hashlib.sha256("\x1f".join((file, str(turn), *ids)).encode()).hexdigest()[:32]
        pending = Pending(name, file, None, turn, tuple(ids))
        self._home.ledger.put(pending)
        return pending

    async def follow(
        self, group: asyncio.TaskGroup, pending: Pending, most: float, tried: int
    ) -> None:
        """See a batch through, and ask again what has to be."""
        budget = self._budget
        # What is left to the server may be billed in full; what is not begun any more is not billed.
        usd = 0.0 if tried and self._home.drained() else most
        again: list[str] = []
        with suppress(_LeftError):
            try:
                pending, batch = await self._ended(pending, new=tried > 0)
                usd, again = await self._read(pending, batch, tried)
            finally:
                if budget is not None:
                    budget.settle(most, usd)
            self._home.breaker.heed()
            await self.ask(group, again, pending.turn + 1, tried + 1)

    async def _ended(self, pending: Pending, *, new: bool) -> tuple[Pending, Batch]:
        """Wait until a batch has ended; it is asked for where it was not yet."""
        home = self._home
        if pending.batch is None:
            # Ctrl-C may have come while the file was on its way.
            await self._rest(0.0)
            pending = replace(pending, batch=await self._begun(pending, new=new))
            home.ledger.put(pending)
        name = pending.batch or ""
        pause = home.pace.first
        clock = asyncio.get_running_loop().time
        until = clock() + home.pace.window
        while True:
            batch = await self._tried(
                f"batch {name} cannot be looked at{self._anew(pending)}",
                lambda: home.api.look(name),
                patient=True,
            )
            if batch.status in ENDED:
                return pending, batch
            if clock() >= until:
                raise ModelError(
                    f"{home.who}: batch {name} has not ended within {home.pace.window / 3600:.2g} hours; its status is "
                    f"{batch.status!r}. The same command looks again{self._anew(pending)}"
                )
            await self._rest(pause)
            pause = min(pause * home.pace.growth, home.pace.most)

    def _anew(self, pending: Pending) -> str:
        """What is to be done where the server does not know a batch, or its files, any more."""
        place = self._home.ledger.place(pending)
        return f" ({place} has it on record: remove that file to ask its calls anew)"

    async def _begun(self, pending: Pending, *, new: bool) -> str:
        """The name of the batch of a file: made once, though the reply that says so may have been lost, here or in an earlier run."""
        api = self._home.api

        async def once() -> str:
            nonlocal new
            found = None if new else await api.find(pending.file)
            new = False
            return found or await api.create(pending.file)

        return await self._tried("a batch cannot be begun", once)

    async def _read(self, pending: Pending, batch: Batch, tried: int) -> tuple[float, list[str]]:
        """Hand over what a batch answered. Returns what it cost, and the calls that are to be asked again.

        Raises:
            ModelError: when it failed as a whole, was cancelled, or when no call in it had an answer.
        """
        home = self._home
        reading = _Reading(home.ledger.of(pending), set(pending.ids))
        for file in batch.files:
            await self._tried(
                f"the results of batch {batch.name} cannot be read{self._anew(pending)}",
                lambda file=file: self._lines(file, reading),  # type: ignore[misc]
                patient=True,
            )
        # That of an earlier run was told by it: its calls are asked anew.
        if tried:
            self._raise_for(batch)
        if batch.status == "completed" and not reading.lines and len(reading.ours) > _FEW:
            raise ModelError(
                f"{home.who}: batch {batch.name} is completed, and its results have no line for any of its "
                f"{len(reading.ours)} calls. They may be billed, so they are not asked again by themselves: the same command "
                f"looks again{self._anew(pending)}"
            )
        for name in reading.left:
            told = f"batch {batch.name} ({batch.status}) has no line for this call"
            fault = CallError("server", told, again=True, worked=batch.status == "completed")
            fault.usd = self._calls[name].most if fault.worked else 0.0
            reading.failed(name, self._calls[name], fault)
        for detail in reading.silent:
            home.breaker.silent(detail)
        again = self._settled(pending, reading.faults, tried)
        home.ledger.read(pending)
        return reading.paid, again

    def _raise_for(self, batch: Batch) -> None:
        """Raises ModelError for a batch that somebody has ended: the next would end so too."""
        who = self._home.who
        if batch.status == "failed":
            name = self._home.form.limit.name
            told = f"{batch.told}; {remedy(name)}" if names(batch.told, name) else batch.told
            raise ModelError(
                f"{who}: batch {batch.name} failed: {told or 'the server does not say why'}. Once that is "
                "mended, the same command goes on where it stopped; where a batch is too large, a smaller chunk: makes smaller "
                "ones"
            )
        if batch.status == "cancelled":
            raise ModelError(
                f"{who}: batch {batch.name} was cancelled at the server. What it answered is kept; the same command "
                "asks for the rest"
            )

    async def _lines(self, file: str, reading: _Reading) -> None:
        """Read one file, until nothing is left to find. What was read before the connection broke is not handed over twice.

        Raises:
            _LeftError: when a person ends the run.
        """
        if not reading.left:
            return
        async with aclosing(self._home.api.lines(file)) as lines:
            async for line in lines:
                if self._home.drained():
                    raise _LeftError
                name = line.get("custom_id")
                if not isinstance(name, str):
                    continue
                reading.lines += name in reading.ours
                if name in reading.left:
                    reading.left.remove(name)
                    await self._answered(name, line, reading)
                    if not reading.left:
                        return

    async def _answered(self, name: str, line: Mapping[str, Any], reading: _Reading) -> None:
        """Hand over what a line says; a fault waits until all lines are read."""
        call = self._calls[name]
        try:
            answer = self._home.form.answer(call, line)
        except CallError as fault:
            reading.failed(name, call, fault)
            if fault.spoken:
                self._heard()
            return
        reading.paid += answer.usd or 0.0
        if answer.failure is None:
            self._heard()
        else:
            reading.silent.append(answer.failure.detail)
        await self._hand_over(call, answer)

    def _heard(self) -> None:
        self._home.heard = True
        self._home.breaker.answered()

    def _settled(self, pending: Pending, faults: Mapping[str, CallError], tried: int) -> list[str]:
        """Put on record what failed for good. Returns what is to be asked again."""
        home = self._home
        again: list[str] = []
        lost: list[CallError] = []
        for name, fault in faults.items():
            # What failed in an earlier run's batch is asked anew, as a single call of that run would be.
            if (fault.again and tried < home.retry.attempts) if tried else not fault.spoken:
                again.append(name)
                continue
            lost.append(fault)
            often = f" (asked {tried} times)" if fault.again else ""
            failure = Failure(fault.kind, f"{fault.detail}{often}")
            self._emit_all(self._calls[name], Completion("", "failed", failure=failure))
        # Lines have no order in time, and those that are asked again are those that fail: what ends a run is a batch without
        # an answer, for a reason that others share, or where the model never answered.
        if len(faults) == len(pending.ids):
            for fault in lost:
                if (fault.stops and not fault.own) or not home.heard:
                    home.breaker.failed(fault)
        return again

    async def _hand_over(self, call: Call, answer: Completion) -> None:
        await self._room()
        self._emit_all(call, answer)

    def _emit_all(self, call: Call, answer: Completion) -> None:
        usd = (answer.usd or 0.0) + call.usd
        first = replace(answer, usd=usd) if usd or answer.usd is not None else answer
        for number, place in enumerate(call.places):
            self._home.calls += 1
            self._emit(place, first if number == 0 else replace(answer, usd=0.0))

    async def _tried(
        self,
        what: str,
        step: Callable[[], Awaitable[T]],
        *,
        patient: bool = False,
        hint: str = "",
    ) -> T:
        """A step, tried again as calls are; a ``patient`` one as long as a call that is turned away may wait.

        Raises:
            ModelError: saying ``what`` could not be done, and why.
        """
        retry = self._home.retry
        clock = asyncio.get_running_loop().time
        number, until = 0, clock() + retry.patience
        while True:
            try:
                return await step()
            except CallError as fault:
                number += 1
                over = number >= retry.attempts
                # What is not of the protocol is so at every look.
                if fault.effect == "limited" or (patient and fault.kind != "parse"):
                    over = clock() >= until
                told = fault.detail if fault.again else f"{fault.detail}{hint}"
                if fault.after is not None and fault.after > retry.patience:
                    over, told = True, f"{told}; the server asks to wait {fault.after:.0f} s"
                if not fault.again or over:
                    raise ModelError(
                        f"{self._home.who}: {what}: {told}. The same command goes on where it stopped"
                    ) from None
                await self._rest(retry.delay(what, number, fault.after))

    async def _rest(self, seconds: float) -> None:
        """Wait, but for no longer than until a person ends the run."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while True:
            if self._home.drained():
                raise _LeftError
            rest = until - clock()
            if rest <= 0:
                return
            await asyncio.sleep(min(rest, _BLINK))
