"""A call as a line of a batch's file, and the answer in a line of its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nfilter import Budget, Completion, FailureKind, Price, Request
from nfilter_litellm.batch_api import ENDPOINT
from nfilter_litellm.failures import CallError, from_status, off_schema, one_line
from nfilter_litellm.limits import Limit, Name, neither, other_than
from nfilter_litellm.protocol import read
from nfilter_litellm.purse import cost_of, most_of


@dataclass(frozen=True, slots=True)
class Till:
    """What calls cost in batches: a price, the budget they are paid from, and ``max_tokens`` of the config."""

    price: Price | None
    budget: Budget | None
    max_tokens: int | None

    def most(self, request: Request) -> float:
        """An upper bound in dollars."""
        return most_of(request, self.price, self.max_tokens) if self.price is not None else 0.0


@dataclass(slots=True)
class Call:
    """One call: where its answer goes, what is sent, what it costs at most, and what its failed attempts cost.

    ``limit`` is the name under which its line has the limit; ``turned``: it was changed already.
    """

    places: list[int]
    request: Request
    line: bytes
    most: float
    limit: Name
    turned: bool = False
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Form:
    """How calls are written and read. ``body`` is what is sent for a request; ``fingerprint`` is the model's."""

    body: Callable[[Request, Name], Mapping[str, Any]]
    limit: Limit
    fingerprint: str
    logprobs: bool
    till: Till

    def calls(self, requests: Sequence[Request]) -> dict[str, Call]:
        """Calls by the ids of their lines. Requests that say the same are one call, other than draws."""
        found: dict[str, Call] = {}
        for place, request in enumerate(requests):
            # Under whichever name the limit goes out, it is the same call: one that is out already is found again.
            body = self.body(request, self.limit.usual)
            sampling = request.sampling
            drawn = (sampling.seed, request.draw) if sampling.temperature > 0 else ()
            said = json.dumps([self.fingerprint, body, drawn, request.logprobs], sort_keys=True)
            name = hashlib.sha256(said.encode()).hexdigest()[:40]
            if name in found:
                found[name].places.append(place)
                continue
            limit = self.limit.name
            line = self._line(name, request, limit)
            found[name] = Call([place], request, line, self.till.most(request), limit)
        return found

    def _line(self, name: str, request: Request, limit: Name) -> bytes:
        body = self.body(request, limit)
        line = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(line).encode() + b"\n"

    def answer(self, call: Call, line: Mapping[str, Any]) -> Completion:
        """The completion in a line of results, with its cost.

        Raises:
            CallError: as for a reply to a single call, with what the attempt may have cost.
        """
        price = self.till.price
        try:
            done = self._read(call.request, line)
            return done if price is None else replace(done, usd=cost_of(done, price, call.most))
        except CallError as error:
            fault = self._turned(call, error, str(line.get("custom_id")))
        except Exception as error:  # noqa: BLE001 (one line of a server's must not end the run)
            fault = off_schema(f"reading it ended in a {type(error).__name__}")
        fault.usd = call.most if fault.worked else 0.0
        raise fault

    def _turned(self, call: Call, fault: CallError, name: str) -> CallError:
        """The fault; where it refuses the limit's name, the call's line is written anew with the other, once."""
        judged = self.limit.judged(fault, call.limit)
        if judged is fault:
            return fault
        if call.turned:
            return neither(fault)
        if judged.again:
            call.limit, call.turned = other_than(call.limit), True
            call.line = self._line(name, call.request, call.limit)
            self.limit.name = call.limit
        return judged

    def _read(self, request: Request, line: Mapping[str, Any]) -> Completion:
        reply, error = line.get("response"), line.get("error")
        if isinstance(reply, Mapping):
            status, body = reply.get("status_code"), reply.get("body")
            if status == 200:
                wanted = self.logprobs and request.logprobs
                most = self.till.max_tokens or request.sampling.max_tokens
                return read(body, logprobs=wanted, stop=request.sampling.stop, limit=most)
            number = status if isinstance(status, int) else 500
            raise from_status(number, json.dumps(body, default=str))
        if isinstance(error, Mapping):
            told = one_line(f"{error.get('code') or ''}: {error.get('message') or ''}")
            kind: FailureKind = "timeout" if "expired" in told else "server"
            raise CallError(kind, told, again=True, worked=False)
        raise off_schema("the line has neither a response nor an error")
