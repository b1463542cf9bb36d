"""Budgeted calls: reserve the cost bound of an attempt before it, and settle the actual cost after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from nfilter import Budget, Completion, Price, Request
from nfilter_litellm.dispatcher import NotStartedError, Transport
from nfilter_litellm.failures import CallError

_TEMPLATE_TOKENS = 64  # tokens that a template may add per message
_POLL_SECONDS = 0.02  # between two checks of the budget


@dataclass(eq=False)
class BudgetedTransport:
    """Transport that charges a budget; answers, and failures that may be billed, contain their cost.

    ``max_tokens`` overrides a request's own, as in the config. While ``stopped`` returns True, no attempt starts.
    """

    transport: Transport
    price: Price
    budget: Budget | None
    max_tokens: int | None
    stopped: Callable[[], bool] = lambda: False

    async def call(self, request: Request) -> Completion:
        """Make one attempt.

        Raises:
            CallError: with ``usd``, the cost or the cost bound of the attempt.
            BudgetError: the budget does not cover the attempt.
            NotStartedError: attempts were stopped while this one waited for the budget.
        """
        bound = cost_bound(request, self.price, self.max_tokens)
        budget = self.budget
        # Threads with their own loops share the budget, so an event of one loop cannot notify the others.
        while budget is not None and not budget.hold(bound):
            await asyncio.sleep(_POLL_SECONDS)
            if self.stopped():
                raise NotStartedError
        usd, lost = bound, 0.0
        try:
            answer = await self.transport.call(request)
            usd = cost_of(answer, self.price, bound)
            return replace(answer, usd=usd)
        except CallError as error:
            usd = error.usd = cost_of_fault(error, self.price, bound)
            raise
        except BaseException as error:
            # A cancelled attempt may be billed in full; an error that ends the run names the reply that it follows from.
            fault = error.__cause__
            usd = lost = (
                cost_of_fault(fault, self.price, bound) if isinstance(fault, CallError) else bound
            )
            raise
        finally:
            if budget is not None:
                budget.settle(bound, usd)
                budget.lose(lost)

    async def close(self) -> None:
        """Close the underlying transport."""
        await self.transport.close()


def cost_bound(request: Request, price: Price, max_tokens: int | None) -> float:
    """Return an upper bound in dollars: a text has at most as many tokens as bytes."""
    prompt = sum(_bytes(message.content) + _TEMPLATE_TOKENS for message in request.messages)
    # The other fields of a message are sent as JSON.
    extras = [turn.packed()[2:] for turn in request.messages]
    prompt += sum(_bytes(json.dumps(each)) for each in extras if each)
    beside = request.beside_messages()
    if beside:
        prompt += _bytes(json.dumps(beside))
    return price.of(prompt, max_tokens or request.sampling.max_tokens)


def cost_of_fault(error: CallError, price: Price, bound: float) -> float:
    """Return the cost of an attempt without an answer in dollars: what its reply counts, else ``bound`` if it may be billed."""
    if not error.may_be_billed:
        return 0.0
    return price.of(*error.tokens) if all(error.tokens) else bound


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def cost_of(answer: Completion, price: Price, bound: float) -> float:
    """Return the cost of an answer in dollars; ``bound`` if the server reports no token counts."""
    if not answer.prompt_tokens or (
        (answer.text or answer.tool_calls or answer.failure) and not answer.completion_tokens
    ):
        return bound
    return price.of(answer.prompt_tokens, answer.completion_tokens)
