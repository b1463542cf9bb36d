"""The requests of one stream on their way to the dispatcher; an open one takes further requests while calls run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from nfilter import Request


class Feed:
    """Requests in the order in which they came, numbered from 0. For one event loop, except its creation."""

    def __init__(self, first: Sequence[Request], *, open_: bool = False) -> None:
        """If ``open_``, the feed ends with ``close``, and else with its last request."""
        self._waiting = deque(enumerate(first))
        self._count = len(self._waiting)
        self._open = open_
        self._changed = asyncio.Event()

    def add(self, requests: Sequence[Request]) -> None:
        """Append requests."""
        self._waiting.extend(enumerate(requests, self._count))
        self._count += len(requests)
        self._changed.set()

    def close(self) -> None:
        """End the feed after the requests that wait."""
        self._open = False
        self._changed.set()

    def take_all(self) -> list[Request]:
        """Return the requests that wait, and remove them."""
        taken = [request for _, request in self._waiting]
        self._waiting.clear()
        return taken

    async def __aiter__(self) -> AsyncIterator[tuple[int, Request]]:
        """Yield each request with its number; wait while there is none and the feed is open."""
        while self._waiting or self._open:
            if self._waiting:
                yield self._waiting.popleft()
            else:
                self._changed.clear()
                await self._changed.wait()
