"""Money for calls: as much as an attempt may cost is held before it is made, and what it did cost is settled after."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from nfilter import Budget, Completion, Price, Request
from nfilter_litellm.engine import Transport
from nfilter_litellm.failures import CallError

_AROUND = 64  # tokens that a template may put around a message
_PAUSE = 0.02  # seconds between two looks at the budget


class Paid:
    """A transport whose attempts have a price. An answer has its cost; so has a failure, as far as the model worked."""

    def __init__(
        self, transport: Transport, price: Price, budget: Budget | None, max_tokens: int | None
    ) -> None:
        """``max_tokens`` takes the place of a request's own, as in the config."""
        self._transport = transport
        self._price = price
        self._budget = budget
        self._max_tokens = max_tokens

    async def call(self, request: Request) -> Completion:
        """One attempt.

        Raises:
            CallError: with ``usd``, what the attempt cost or may have cost.
            BudgetError: when the budget does not cover it.
        """
        most = most_of(request, self._price, self._max_tokens)
        budget = self._budget
        # Threads with loops of their own share the budget: no event of one loop could tell the others.
        while budget is not None and not budget.hold(most):  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
        # What is given up half way may be billed in full.
        usd = most
        try:
            answer = await self._transport.call(request)
            usd = cost_of(answer, self._price, most)
            return replace(answer, usd=usd)
        except CallError as error:
            usd = error.usd = most if error.worked else 0.0
            raise
        finally:
            if budget is not None:
                budget.settle(most, usd)

    async def close(self) -> None:
        """Close what is behind it."""
        await self._transport.close()


def most_of(request: Request, price: Price, max_tokens: int | None) -> float:
    """An upper bound in dollars: no tokenizer makes more tokens of a text than it has bytes."""
    prompt = sum(_bytes(message.content) + _AROUND for message in request.messages)
    # What else a turn holds goes out as JSON.
    more = [turn.packed()[2:] for turn in request.messages]
    prompt += sum(_bytes(json.dumps(each)) for each in more if each)
    if request.tools:
        prompt += _bytes(json.dumps(list(request.tools)))
    return price.of(prompt, max_tokens or request.sampling.max_tokens)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def cost_of(answer: Completion, price: Price, most: float) -> float:
    """What an answer did cost; as much as it may have, where the server does not count."""
    if not answer.prompt_tokens or (
        (answer.text or answer.failure) and not answer.completion_tokens
    ):
        return most
    return price.of(answer.prompt_tokens, answer.completion_tokens)
