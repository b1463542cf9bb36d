"""Where calls wait for their turn: as many go through as the limiter allows, those that come back before new ones."""

from __future__ import annotations

import asyncio
from collections import deque

from nfilter_litellm.limiter import Limiter


class Gate:
    """A semaphore whose size is the limiter's, and which can be shut for a while. For one event loop."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._out = 0
        self._resting = 0
        self._shut_until = 0.0
        self._fresh: deque[asyncio.Future[int]] = deque()
        self._again: deque[asyncio.Future[int]] = deque()
        self._opener: asyncio.TimerHandle | None = None

    async def enter(self, *, again: bool = False) -> int:
        """Wait for a turn. Returns the call's ticket; ``leave`` gives the turn back."""
        line = self._again if again else self._again or self._fresh
        if not line and self._opener is None and self._has_room(again):
            self._out += 1
            return self._limiter.starts()
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        (self._again if again else self._fresh).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """A call has ended."""
        self._out -= 1
        self.admit()

    def admit(self) -> None:
        """Let in whom there is room for."""
        if self._opener is not None:
            return
        while True:
            line = self._again or self._fresh
            if not line or not self._has_room(line is self._again):
                return
            turn = line.popleft()
            if not turn.done():
                self._out += 1
                turn.set_result(self._limiter.starts())

    def _has_room(self, again: bool) -> bool:
        if self._out >= self._limiter.room:
            return False
        # New calls wait while as many rest as may be out: a server that is down is not asked about every one of them.
        return again or self._resting < self._limiter.level or self._limiter.probing

    async def rest(self, seconds: float) -> int:
        """Wait before another attempt, holding no turn, and then for a turn. Returns the new ticket."""
        self._resting += 1
        try:
            await asyncio.sleep(seconds)
            return await self.enter(again=True)
        finally:
            self._resting -= 1
            self.admit()

    def shut(self, seconds: float) -> None:
        """Let nobody in for so long; a later end stands."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until <= self._shut_until and self._opener is not None:
            return
        self._shut_until = until
        if self._opener is not None:
            self._opener.cancel()
        self._opener = loop.call_at(until, self._open)

    def _open(self) -> None:
        self._opener = None
        self.admit()
