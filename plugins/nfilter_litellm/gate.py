"""Queue of calls that wait for a slot; retries enter before new calls."""

from __future__ import annotations

import asyncio
from collections import deque

from nfilter_litellm.limiter import Limiter


class Gate:
    """Semaphore with the limiter's capacity that can be closed temporarily. For one event loop."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._running = 0
        self._waiting_to_retry = 0
        self._closed_until = 0.0
        self._new: deque[asyncio.Future[int]] = deque()
        self._retries: deque[asyncio.Future[int]] = deque()
        self._opener: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """The number of slots in use."""
        return self._running

    async def enter(self, *, retry: bool = False) -> int:
        """Wait for a slot and return the call's ticket; ``leave`` releases the slot."""
        queue = self._retries if retry else self._retries or self._new
        if not queue and self._opener is None and self._has_slot(retry):
            self._running += 1
            return self._limiter.start()
        slot: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        (self._retries if retry else self._new).append(slot)
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Release a slot."""
        self._running -= 1
        self.admit()

    def admit(self) -> None:
        """Admit waiting calls while a slot is free."""
        if self._opener is not None:
            return
        while True:
            queue = self._retries or self._new
            if not queue or not self._has_slot(queue is self._retries):
                return
            slot = queue.popleft()
            if not slot.done():
                self._running += 1
                slot.set_result(self._limiter.start())

    def _has_slot(self, retry: bool) -> bool:
        if self._running >= self._limiter.capacity:
            return False
        # New calls wait while as many calls as the level wait to retry: an unavailable server gets no new ones.
        return retry or self._waiting_to_retry < self._limiter.level or self._limiter.probing

    async def wait_and_reenter(self, seconds: float) -> int:
        """Wait without a slot before another attempt, then for a slot; return the new ticket."""
        self._waiting_to_retry += 1
        try:
            await asyncio.sleep(seconds)
            return await self.enter(retry=True)
        finally:
            self._waiting_to_retry -= 1
            self.admit()

    def close_for(self, seconds: float) -> None:
        """Admit no call for ``seconds``; of two closures the later end applies."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until <= self._closed_until and self._opener is not None:
            return
        self._closed_until = until
        if self._opener is not None:
            self._opener.cancel()
        self._opener = loop.call_at(until, self._open)

    def _open(self) -> None:
        self._opener = None
        self.admit()
