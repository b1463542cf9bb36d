"""Attribution of a rejected request to its shape, which other calls share, or to its prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from nfilter import Request
from nfilter_litellm.failures import CallError

if TYPE_CHECKING:
    from nfilter_litellm.dispatcher import Transport

_PROBE_TEXT = "Say yes."


class RequestShapes:
    """Request shapes that the server is known to accept or reject. For one event loop.

    A shape is a request without its texts: roles, sampling, log-probabilities, tools, schema.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._accepted: dict[Hashable, bool] = {}
        self._lock = asyncio.Lock()

    def accept(self, request: Request) -> None:
        """Record that a request of this shape was answered."""
        self._accepted[_shape_of(request)] = True

    async def is_rejected(
        self,
        request: Request,
        add_cost: Callable[[float], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Return whether the server rejects the shape of a rejected request.

        An unknown shape is probed with short texts; ``add_cost`` receives the probe's cost. Returns False if the probe
        is inconclusive, or does not start because of ``stopped``: the call's own failure is recorded in any case.
        """
        shape = _shape_of(request)
        async with self._lock:
            if shape not in self._accepted:
                # While this call waited for the lock, the run may have been stopped.
                if stopped():
                    return False
                accepted = await self._probe(request, add_cost)
                if accepted is None:
                    return False
                self._accepted[shape] = accepted
        return not self._accepted[shape]

    async def _probe(self, request: Request, add_cost: Callable[[float], None]) -> bool | None:
        turns = tuple(replace(turn, content=_PROBE_TEXT) for turn in request.messages)
        try:
            answer = await self._transport.call(replace(request, messages=turns))
        except CallError as error:
            add_cost(error.usd)
            # A temporary fault is inconclusive; a refusal or an empty answer is an answer.
            return None if error.retry else error.is_answer
        add_cost(answer.usd or 0.0)
        return True


def _shape_of(request: Request) -> Hashable:
    sampling = replace(request.sampling, seed=0)
    roles = tuple(dict.fromkeys(turn.role for turn in request.messages))
    beside = json.dumps(request.beside_messages(), sort_keys=True, default=str)
    return roles, sampling, request.logprobs, beside
