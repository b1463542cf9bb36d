"""Calls as lines of a batch's input file, and answers from lines of its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nfilter import Budget, Completion, FailureKind, Price, Request
from nfilter_litellm.batch_api import ENDPOINT
from nfilter_litellm.budgeted_transport import cost_bound, cost_of, cost_of_fault
from nfilter_litellm.failures import CallError, from_status, off_schema, one_line, without_status
from nfilter_litellm.limit_field import LimitField, LimitName, neither_accepted, other_name
from nfilter_litellm.protocol import read


@dataclass(frozen=True, slots=True)
class BatchPricing:
    """Price of calls in batches, the budget that pays for them, and ``max_tokens`` of the config."""

    price: Price | None
    budget: Budget | None
    max_tokens: int | None

    def cost_bound(self, request: Request) -> float:
        """Return an upper bound in dollars."""
        return cost_bound(request, self.price, self.max_tokens) if self.price is not None else 0.0


@dataclass(slots=True)
class Call:
    """One call: indices of its requests, its line, its cost bound, and ``usd``, the cost of its failed attempts without a completion.

    ``lost`` is the part of ``usd`` that no later run would read again from the results of its batch. ``limit`` is the name of the limit field in its line; ``renamed``: the name was already changed.
    """

    indices: list[int]
    request: Request
    line: bytes
    max_usd: float
    limit: LimitName
    renamed: bool = False
    usd: float = 0.0
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchFormat:
    """Writer and parser of batch lines. ``body`` builds a request's body; ``fingerprint`` is the model's."""

    body: Callable[[Request, LimitName], Mapping[str, Any]]
    limit: LimitField
    fingerprint: str
    logprobs: bool
    pricing: BatchPricing

    def calls(self, requests: Sequence[Request]) -> dict[str, Call]:
        """Return calls by line id. Equal requests share a call, except sampled draws."""
        calls: dict[str, Call] = {}
        for index, request in enumerate(requests):
            # The id does not depend on the limit's name, so a submitted call is recognised under either name.
            body = self.body(request, self.limit.default)
            sampling = request.sampling
            drawn = (sampling.seed, request.draw) if sampling.temperature > 0 else ()
            key = json.dumps([self.fingerprint, body, drawn, request.logprobs], sort_keys=True)
            name = hashlib.sha256(key.encode()).hexdigest()[:40]
            if name in calls:
                calls[name].indices.append(index)
                continue
            limit = self.limit.name
            line = self._line(name, request, limit)
            calls[name] = Call([index], request, line, self.pricing.cost_bound(request), limit)
        return calls

    def _line(self, name: str, request: Request, limit: LimitName) -> bytes:
        body = self.body(request, limit)
        line = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(line).encode() + b"\n"

    def answer(self, call: Call, line: Mapping[str, Any]) -> Completion:
        """Return the completion in a line of results, with its cost.

        Raises:
            CallError: as for a reply to a single call, with the attempt's cost bound.
        """
        price = self.pricing.price
        try:
            done = self._parse(call.request, line)
            return done if price is None else replace(done, usd=cost_of(done, price, call.max_usd))
        except CallError as error:
            fault = self._retry_renamed(call, error, str(line.get("custom_id")))
        except Exception as error:  # noqa: BLE001 (an invalid line must not end the run)
            fault = off_schema(f"parsing it raises {type(error).__name__}")
        fault.usd = cost_of_fault(fault, price, call.max_usd) if price is not None else 0.0
        raise fault

    def _retry_renamed(self, call: Call, fault: CallError, name: str) -> CallError:
        """Return the fault; if it rejects the limit's name, rewrite the call's line with the other name, once."""
        error = self.limit.with_remedy(fault, call.limit)
        if error is fault:
            return fault
        if call.renamed:
            return neither_accepted(fault)
        if error.retry:
            call.limit, call.renamed = other_name(call.limit), True
            call.line = self._line(name, call.request, call.limit)
            self.limit.name = call.limit
        return error

    def _parse(self, request: Request, line: Mapping[str, Any]) -> Completion:
        reply, error = line.get("response"), line.get("error")
        if isinstance(reply, Mapping):
            status, body = reply.get("status_code"), reply.get("body")
            if status == 200:
                logprobs = self.logprobs and request.logprobs
                limit = self.pricing.max_tokens or request.sampling.max_tokens
                return read(
                    body,
                    logprobs=logprobs,
                    stop=request.sampling.stop,
                    limit=limit,
                    tools=bool(request.tools),
                )
            text = json.dumps(body, default=str)
            if not isinstance(status, int):
                raise without_status(text, "the line of the batch has a response")
            raise from_status(status, text)
        if isinstance(error, Mapping):
            said = [str(error[name]) for name in ("code", "message") if error.get(name)]
            detail = one_line(": ".join(said) or "the line has an error without code and message")
            kind: FailureKind = "timeout" if "expired" in detail else "server"
            raise CallError(kind, detail, retry=True, may_be_billed=False)
        raise off_schema("the line has neither a response nor an error")
