"""Calls in batches: handed to the server together, looked at until they are done, and paid once whatever happens.

A batch goes through four steps, each on record before the next begins: its file is brought, the batch is asked for, its name
is known, its lines are read. A run that was killed between any two of them takes the batch up at the next one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from nfilter import Completion, Failure, ModelError, Request
from nfilter_litellm.batch_api import ENDED, Batch, BatchApi
from nfilter_litellm.batch_lines import Call, Form
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.engine import first_of
from nfilter_litellm.failures import CallError
from nfilter_litellm.pending import Ledger, Pending
from nfilter_litellm.retry import Retry

_BLINK = 0.2  # seconds between two looks at Ctrl-C and at the budget

T = TypeVar("T")
Emit = Callable[[int, Completion], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How large a batch may be, in lines and bytes, and how often it is looked at: seconds, growing from look to look."""

    lines: int = 50_000
    size: int = 200_000_000
    first: float = 2.0
    growth: float = 1.5
    most: float = 60.0


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
        # What is left to the server may be billed in full.
        usd = most
        again: list[str] = []
        with suppress(_LeftError):
            try:
                pending, batch = await self._ended(pending, new=tried > 0)
                usd, again = await self._read(pending, batch, tried)
            finally:
                if budget is not None:
                    budget.settle(most, usd)
            await self.ask(group, again, pending.turn + 1, tried + 1)

    async def _ended(self, pending: Pending, *, new: bool) -> tuple[Pending, Batch]:
        """Wait until a batch has ended; it is asked for where it was not yet."""
        home = self._home
        if pending.batch is None:
            batch = await self._begun(pending, new=new)
            pending = replace(pending, batch=batch.name)
            home.ledger.put(pending)
        name = pending.batch or ""
        pause = home.pace.first
        while True:
            batch = await self._tried(
                f"batch {name} cannot be looked at{self._anew(pending)}",
                lambda: home.api.look(name),
                patient=True,
            )
            if batch.status in ENDED:
                return pending, batch
            await self._rest(pause)
            pause = min(pause * home.pace.growth, home.pace.most)

    def _anew(self, pending: Pending) -> str:
        """What is to be done where the server does not know a batch, or its files, any more."""
        place = self._home.ledger.place(pending)
        return f" ({place} has it on record: remove that file to ask its calls anew)"

    async def _begun(self, pending: Pending, *, new: bool) -> Batch:
        """The batch of a file: made once, though the reply that says so may have been lost, here or in an earlier run."""
        api = self._home.api

        async def once() -> Batch:
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
        left = set(pending.ids)
        faults: dict[str, CallError] = {}
        paid = [0.0]
        for file in batch.files:
            await self._tried(
                f"the results of batch {batch.name} cannot be read{self._anew(pending)}",
                lambda file=file: self._lines(file, left, faults, paid),  # type: ignore[misc]
                patient=True,
            )
        if batch.status == "failed":
            home.ledger.forget(pending.name)
            raise ModelError(
                f"{home.who}: batch {batch.name} failed: {batch.told or 'the server does not say why'}. Once that is "
                "mended, the same command goes on where it stopped; where a batch is too large, a smaller chunk: makes smaller "
                "ones"
            )
        for each in left:
            told = f"batch {batch.name} ({batch.status}) has no line for this call"
            faults[each] = CallError("server", told, again=True, worked=False)
        again = self._settled(pending, faults, tried)
        home.ledger.read(pending)
        if batch.status == "cancelled" and tried:
            raise ModelError(
                f"{home.who}: batch {batch.name} was cancelled at the server. What it answered is kept; the same command "
                "asks for the rest"
            )
        return paid[0], again

    async def _lines(
        self, file: str, left: set[str], faults: dict[str, CallError], paid: list[float]
    ) -> None:
        """Read one file. What was read before the connection broke is not handed over twice."""
        async for line in self._home.api.lines(file):
            name = line.get("custom_id")
            if not isinstance(name, str) or name not in left:
                continue
            left.remove(name)
            call = self._calls[name]
            try:
                answer = self._home.form.answer(call, line)
            except CallError as fault:
                paid[0] += fault.usd
                call.usd += fault.usd
                faults[name] = fault
                if fault.spoken:
                    self._heard()
                continue
            paid[0] += answer.usd or 0.0
            self._heard()
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
                if fault.stops or not home.heard:
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
                if fault.effect == "limited" or patient:
                    over = clock() >= until
                if not fault.again or over:
                    raise ModelError(
                        f"{self._home.who}: {what}: {fault.detail}{'' if fault.again else hint}. The same command goes on "
                        "where it stopped"
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
