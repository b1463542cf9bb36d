"""Whether a request that the server calls bad is bad in its form, which all calls share, or in its prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from nfilter import Request
from nfilter_litellm.failures import CallError

if TYPE_CHECKING:
    from nfilter_litellm.engine import Transport

_SHORT = "Say yes."


class Forms:
    """The forms of requests that the server is known to take, or not to take. For one event loop.

    A form is all of a request but its texts: roles, sampling, log-probabilities, tools.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._works: dict[Hashable, bool] = {}
        self._lock = asyncio.Lock()

    def works(self, request: Request) -> None:
        """A request was answered."""
        self._works[_form(request)] = True

    async def at_fault(self, request: Request, pays: Callable[[float], None]) -> bool:
        """Whether it is the form of a refused request that the server does not take.

        Where no request of that form was answered yet, one with short texts is asked; ``pays`` has what that cost. False as
        well where nothing is known by that: the call's own failure is on record in any case.
        """
        form = _form(request)
        async with self._lock:
            if form not in self._works:
                known = await self._asked(request, pays)
                if known is None:
                    return False
                self._works[form] = known
        return not self._works[form]

    async def _asked(self, request: Request, pays: Callable[[float], None]) -> bool | None:
        turns = tuple(replace(turn, content=_SHORT) for turn in request.messages)
        try:
            answer = await self._transport.call(replace(request, messages=turns))
        except CallError as error:
            pays(error.usd)
            # What may pass says nothing; a refusal or an empty answer is one.
            return None if error.again else error.spoken
        pays(answer.usd or 0.0)
        return True


def _form(request: Request) -> Hashable:
    sampling = replace(request.sampling, seed=0)
    roles = tuple(dict.fromkeys(turn.role for turn in request.messages))
    return roles, sampling, request.logprobs, bool(request.tools)
