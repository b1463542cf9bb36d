"""Several servers with the same model: each call goes to the one that is expected to answer it first; one that fails is left alone for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from nfilter import Completion, ModelError, Request
from nfilter_litellm.failures import CallError
from nfilter_litellm.pace import Pace, Paces

_FAILURES: Final = (
    3  # in a row, after which a server is left alone; one is enough if nothing was sent
)
_FIRST_PAUSE: Final = 1.0  # seconds
_LONGEST_PAUSE: Final = 60.0  # seconds


class Server(Protocol):
    """The transport of one server."""

    async def call(self, request: Request) -> Completion:
        """Return the completion; raise CallError."""
        ...

    async def answers(self) -> bool:
        """Return whether the server answers at all, without a call to a model."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Replica:
    """A server and its state. ``opens`` is the time from which it may be used again; None if it is in use.

    After a pause it is on ``trial``: it has one call at a time, until it answers one. ``pauses`` counts pauses since its last
    answer. ``rejected_alone`` counts requests in a row that it rejected and another server took.
    """

    address: str
    server: Server
    pace: Pace = field(default_factory=Pace)
    failures: int = 0
    pauses: int = 0
    rejected_alone: int = 0
    opens: float | None = None
    trial: bool = False

    @property
    def ready(self) -> bool:
        return self.opens is None and not (self.trial and self.pace.running)

    def answered(self) -> None:
        self.failures = self.pauses = 0
        self.opens = None
        self.trial = False

    def resume(self) -> None:
        self.opens = None
        self.trial = True

    def failed(self, now: float, *, reached: bool, held: float = 0.0) -> None:
        """Record a failure. A call that was given up had held a slot for ``held`` seconds."""
        self.failures += 1
        if self.failures >= _FAILURES or self.trial or not reached:
            self.pause(now, least=held)

    def pause(self, now: float, seconds: float | None = None, least: float = 0.0) -> None:
        """Leave the server alone for ``seconds``, else for twice as long as in the last pause, and for ``least`` seconds at least."""
        if self.opens is None or self.opens <= now:
            if seconds is None:
                seconds = max(least, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self.pauses))
            self.pauses += 1
        # Calls that were running when the pause began fail for the same reason: they do not begin another one.
        self.opens = max(self.opens or 0.0, now + (seconds or 0.0))


def _wrong_server(detail: str) -> str:
    return (
        f"one of several servers fails: {detail}; correct its address or its key, or remove it from api_base and replicas, and "
        "run the same command again"
    )


class ReplicaTransport:
    """Transport over several servers. For one event loop.

    A call goes to the server that is expected to answer it first, by its calls running and its recent time per answer (``Paces``).
    A server that cannot be reached, that fails three times in a row, or that asks to wait, gets no calls for 1 s, then 2 s, up to
    60 s, and after a call that was given up for at least as long as that had taken. After the pause it is asked whether it answers (``Server.answers``), and then gets one call: if that fails, the next pause
    begins, and if it is answered, the server gets calls as before. If all servers pause, calls
    go to the one whose pause ends first, and the engine's own retries apply. A request that one server rejects is tried at another; a
    server that rejects three in a row which others take ends the run.
    """

    def __init__(self, servers: Sequence[tuple[str, Server]]) -> None:
        """``servers`` are pairs of an address, for messages, and its transport."""
        self._replicas = [_Replica(address, server) for address, server in servers]
        self._checks: dict[int, asyncio.Task[None]] = {}
        self._paces = Paces()

    async def call(self, request: Request) -> Completion:
        """Make one attempt at the server that is expected to answer first.

        Raises:
            CallError: with the address of the server.
            ModelError: the server fails for a reason that all its calls share, such as the key or the model's name.
        """
        first = self._choose(asyncio.get_running_loop().time())
        try:
            return await self._call(first, request)
        except CallError as error:
            others = [each for each in self._replicas if each.ready and each is not first]
            if not (error.shared and error.maybe_prompt) or not others:
                raise
            rejection = error
        # A rejected prompt is rejected by every server; what another one takes is a fault of the first.
        answer = await self._call(self._least_loaded(others), request)
        first.rejected_alone += 1
        if first.rejected_alone >= _FAILURES:
            raise ModelError(_wrong_server(rejection.detail))
        return answer

    async def _call(self, replica: _Replica, request: Request) -> Completion:
        """Make one attempt at one server."""
        clock = asyncio.get_running_loop().time
        started = clock()
        answered = slow = False
        self._paces.start(replica.pace, started)
        try:
            answer = await replica.server.call(request)
        except CallError as error:
            slow = error.kind == "timeout"
            asked_to_wait = error.retry_after is not None and error.effect != "none"
            if error.effect == "limited" or asked_to_wait:
                replica.pause(clock(), error.retry_after)
                if any(each.opens is None for each in self._replicas):
                    # Another server need not wait as long.
                    error.retry_after = None
            elif error.retry:
                # Also a reply that is no completion: a server that sends such at once is the least loaded one.
                now = clock()
                held = now - started if slow else 0.0
                replica.failed(now, reached=error.may_be_billed, held=held)
            else:
                answered = True
                replica.answered()
            error.detail = f"{error.detail} (at {replica.address})"
            if error.shared and not error.maybe_prompt:
                # The other servers may answer, and the calls of this one would fail in silence.
                raise ModelError(_wrong_server(error.detail)) from error
            raise
        else:
            answered = True
            replica.answered()
            replica.rejected_alone = 0
            return answer
        finally:
            now = clock()
            self._paces.end(replica.pace, now, now - started, answered=answered, slow=slow)

    async def close(self) -> None:
        """Close the transports of all servers."""
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        for replica in self._replicas:
            await replica.server.close()

    def _choose(self, now: float) -> _Replica:
        for number, replica in enumerate(self._replicas):
            due = replica.opens is not None and replica.opens <= now
            if due and number not in self._checks:
                check = asyncio.get_running_loop().create_task(self._check(replica))
                self._checks[number] = check
                check.add_done_callback(partial(self._end_check, number))
        ready = [replica for replica in self._replicas if replica.ready]
        if ready:
            return self._least_loaded(ready)
        first = min(each.opens or 0.0 for each in self._replicas)
        return self._least_loaded([each for each in self._replicas if (each.opens or 0.0) == first])

    def _least_loaded(self, replicas: Sequence[_Replica]) -> _Replica:
        now = asyncio.get_running_loop().time()
        pace = self._paces.least_loaded([each.pace for each in replicas], now)
        return next(each for each in replicas if each.pace is pace)

    def _end_check(self, number: int, _: asyncio.Task[None]) -> None:
        del self._checks[number]

    async def _check(self, replica: _Replica) -> None:
        alive = False
        with suppress(CallError):
            alive = await replica.server.answers()
        if alive:
            replica.resume()
        else:
            replica.pause(asyncio.get_running_loop().time())
