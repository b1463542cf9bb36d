"""The faults of a model server by call: seeded, without a socket, and independent of the order of calls."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nfilter.api.calls import Completion
from nfilter.api.types import ToolCall

PASSING = frozenset(
    {
        "limited", "limited_after", "error", "gateway", "unavailable", "hang", "reset", "truncated", "empty_body", "html", "drip",
    }
)  # fmt: skip
"""Faults that may end with another attempt: 429 without and with Retry-After, 500, 504, 503, and broken replies."""

LASTING = frozenset(
    {
        "empty", "refusal", "filtered", "overflow", "overflow_vllm", "overflow_llama", "off_schema", "no_logprobs",
    }
)  # fmt: skip
"""Faults that a conversation meets at every attempt: an empty answer, two kinds of refusal, a prompt too long."""

PERMANENT = frozenset({"unauthorized", "forbidden", "no_quota", "unknown_model", "redirect"})
"""Faults of the account or the address, which no attempt of any call gets around."""

_LIMITS = ("max_tokens", "max_completion_tokens")
KINDS = PASSING | LASTING | PERMANENT


@dataclass(frozen=True, slots=True)
class Phase:
    """From ``start`` to ``end`` (seconds of the script, from the first call on) every call has the fault ``kind``.

    With ``Script.by_calls`` both are numbers of calls: the call of number ``start``, from 0, is the first with the fault.
    """

    start: float
    end: float
    kind: str


def answer(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the default answer: a few words that depend on every message."""
    digest = hashlib.sha256(content_of(messages).encode()).hexdigest()
    return f"answer {digest[:6]} is {int(digest[6:10], 16)}"


def add(messages: Sequence[Mapping[str, Any]]) -> str:
    """Answer the last sum of a conversation."""
    left, right = re.findall(r"(\d+)\+(\d+)", str(messages[-1]["content"]))[-1]
    return f"The answer is {int(left) + int(right)}"


def content_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the key of a conversation in counts: the contents of its messages, joined by unit separators."""
    return "\x1f".join(str(message.get("content")) for message in messages)


@dataclass(frozen=True, slots=True)
class Script:
    """The behaviour of a server. Times are in seconds of the script; each takes ``scale`` seconds of the clock.

    ``faults`` are shares in [0, 1]: of conversations for lasting kinds, of attempts for all others. With a share of 1 every
    attempt has the fault. The first replies with a refusal wait until ``together`` calls have one. More than ``capacity`` concurrent calls get a 429; more than ``slots`` wait in a queue. ``key`` is
    the only accepted key. Without ``logprobs``, requests for them are ignored silently; without ``schemas`` a schema of the answer is refused. ``limit_as`` is the only accepted name
    of the limit on tokens. With ``thinks`` a model spends so many
    tokens on thoughts before each answer, an eighth with ``reasoning_effort: low``. ``answer`` gives the text of an answer, or a whole completion with its end, counts and logprobs.
    ``held`` returns, for the content of a conversation, the event that its reply waits for; None: it does not wait.
    """

    seed: int = 0
    latency: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    phases: Sequence[Phase] = ()
    by_calls: bool = False
    together: int = 0
    scale: float = 1.0
    capacity: int | None = None
    slots: int | None = None
    key: str | None = None
    logprobs: bool = True
    schemas: bool = True
    answer: Callable[[Sequence[Mapping[str, Any]]], str | Completion] = answer
    limit_as: str = ""
    thinks: int = 0
    retry_after: float = 1.0
    hang: float = 3600.0
    drip_bytes: int = 50 * 2**20
    held: Callable[[str], threading.Event | None] = lambda _: None

    def __post_init__(self) -> None:
        named = {*self.faults, *(phase.kind for phase in self.phases)}
        if unknown := sorted(named - KINDS):
            raise ValueError(f"no fault {unknown[0]!r}; there are: {', '.join(sorted(KINDS))}")
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ValueError("the shares of the faults are more than 1 together")


class Plan:
    """Chooses the fault of each attempt, and counts it.

    ``served`` has the kinds of each conversation, in order; ``decided`` the kinds of all attempts, each with the calls in flight.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.served: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.decided: list[tuple[str, int]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._began: float | None = None

    def decide(
        self,
        content: str,
        now: float,
        key: str | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the kind of the next attempt at a conversation: ``ok`` or a fault. ``now`` is any clock, in seconds.

        ``asked`` is the body of the request, which may have a field that is not accepted.
        """
        if self._began is None:
            self._began = now
        elapsed = (now - self._began) / self.script.scale
        kind = self._kind(content, len(self.decided) if self.script.by_calls else elapsed)
        if self.script.key is not None and key != self.script.key:
            kind = "unauthorized"
        taken = self.script.limit_as
        refused = [name for name in _LIMITS if taken and name != taken and name in (asked or {})]
        if refused:
            kind = f"no_{refused[0]}"
        if not self.script.schemas and "response_format" in (asked or {}):
            kind = "no_schema"
        self.served.setdefault(content, []).append(kind)
        self.counts[kind] += 1
        self.decided.append((kind, self.in_flight))
        return kind

    def _kind(self, content: str, elapsed: float) -> str:
        script = self.script
        for phase in script.phases:
            if phase.start <= elapsed < phase.end:
                return phase.kind
        if script.capacity is not None and self.in_flight > script.capacity:
            return "limited"
        attempt = len(self.served.get(content, ()))
        lasting = {kind: share for kind, share in script.faults.items() if kind in LASTING}
        passing = {kind: share for kind, share in script.faults.items() if kind not in LASTING}
        left = 1 - sum(lasting.values())
        met = _drawn(lasting, self._uniform(content))
        if met is None and left > 0:
            # Relative to the remaining attempts, so that a share refers to all conversations.
            among = {kind: min(1.0, share / left) for kind, share in passing.items()}
            met = _drawn(among, self._uniform(content, attempt))
        return met or "ok"

    def _uniform(self, *parts: object) -> float:
        text = "\x1f".join(map(str, (self.script.seed, *parts)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56

    def enter(self) -> None:
        """Count the start of a call."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def leave(self) -> None:
        """Count the end of a call."""
        self.in_flight -= 1

    def report(self) -> dict[str, Any]:
        """Return the counts as JSON: attempts by kind, conversations, and the maximum of concurrent calls."""
        return {
            "counts": dict(self.counts),
            "attempts": sum(self.counts.values()),
            "conversations": len(self.served),
            "most_in_flight": self.most_in_flight,
        }


def _drawn(shares: Mapping[str, float], number: float) -> str | None:
    for kind in sorted(shares):
        number -= shares[kind]
        if number < 0:
            return kind
    return None


def completion(
    script: Script, messages: Sequence[Mapping[str, Any]], asked: Mapping[str, Any], kind: str
) -> dict[str, Any]:
    """Return the body of a reply with status 200: an answer, or a fault with that status."""
    given = script.answer(messages)
    made = given if isinstance(given, Completion) else Completion(given)
    text: str | None = made.text
    finish: str = made.finish
    refusal = None
    if kind == "empty":
        text = ""
    elif kind == "refusal":
        text, refusal = None, "I cannot help with that."
    elif kind == "filtered":
        text, finish = "", "content_filter"
    words = (text or "").split(" ") if text else []
    limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
    if isinstance(limit, int) and len(words) > limit:
        words, finish = words[:limit], "length"
        text = " ".join(words)
    thinks = script.thinks // 8 if asked.get("reasoning_effort") == "low" else script.thinks
    if thinks and isinstance(limit, int) and thinks >= limit:
        words, text, finish, thinks = [], None, "length", limit
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal}
    if made.tool_calls:
        message |= {
            "content": text or None,
            "tool_calls": [_called(each) for each in made.tool_calls],
        }
        finish = "tool_calls"
    reasoning = "so " * thinks if thinks else made.reasoning
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
    if asked.get("logprobs") and script.logprobs and kind != "no_logprobs":
        listed = [_token(word) for word in words]
        if made.logprobs is not None and text == made.text:
            listed = [{**_token(""), "logprob": value} for value in made.logprobs]
        choice["logprobs"] = {"content": listed}
    prompt = sum(len(str(message.get("content")).split()) for message in messages)
    prompt, count = made.prompt_tokens or prompt, made.completion_tokens or thinks + len(words)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": count,
        "total_tokens": prompt + count,
    }
    return {
        "id": "chatcmpl-" + hashlib.sha256(content_of(messages).encode()).hexdigest()[:12],
        "object": "chat.completion",
        "created": 0,
        "model": asked.get("model"),
        "choices": [choice],
        "usage": usage,
    }


def _called(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _token(word: str) -> dict[str, Any]:
    return {"token": word, "logprob": logprob(word), "bytes": None, "top_logprobs": []}


def logprob(word: str) -> float:
    """Return the log-probability of a word, a constant in (-1, 0]."""
    return -int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") / 2**16


def error_body(kind: str, given_key: str = "") -> tuple[int, dict[str, Any]]:
    """Return status and body of an error in the words of OpenAI, vLLM and llama.cpp. A rejected key is echoed, as some servers do."""
    bodies: dict[str, tuple[int, dict[str, Any]]] = {
        "limited": (429, _openai("Rate limit reached for requests", "requests", "rate_limit_exceeded")),
        "error": (500, _openai("The server had an error while processing your request", "server_error", None)),
        "gateway": (504, {"error": {"message": "The upstream server did not answer in time", "code": 504}}),
        "unavailable": (503, _openai("The engine is currently overloaded", "server_error", None)),
        "unauthorized": (401, _openai(f"Incorrect API key provided: {given_key}", "invalid_request_error", "invalid_api_key")),
        "forbidden": (403, _openai("You are not allowed to sample from this model", "invalid_request_error", None)),
        "no_quota": (429, _openai("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "insufficient_quota")),
        "unknown_model": (404, _openai("The model `nothing` does not exist or you do not have access to it.", "invalid_request_error", "model_not_found")),
        "no_max_tokens": (400, _no_field("max_tokens", "max_completion_tokens")),
        "no_max_completion_tokens": (400, _no_field("max_completion_tokens", "max_tokens")),
        "no_schema": (400, _openai("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.", "invalid_request_error", None, "response_format")),
        "overflow": (400, _openai("This model's maximum context length is 4097 tokens. However, your messages resulted in 5012 tokens. Please reduce the length of the messages.", "invalid_request_error", "context_length_exceeded", "messages")),
        "overflow_vllm": (400, {"object": "error", "message": "This model's maximum context length is 2048 tokens. However, you requested 2304 tokens (2048 in the messages, 256 in the completion). Please reduce the length of the messages or completion.", "type": "BadRequestError", "param": None, "code": 400}),
        "overflow_llama": (400, {"error": {"code": 400, "message": "request (3003 tokens) exceeds the available context size (1024 tokens), try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 3003, "n_ctx": 1024}}),
    }  # fmt: skip
    return bodies["limited" if kind == "limited_after" else kind]


def _no_field(name: str, other: str) -> dict[str, Any]:
    told = (
        f"Unsupported parameter: '{name}' is not supported with this model. Use '{other}' instead."
    )
    return _openai(told, "invalid_request_error", "unsupported_parameter", name)


def _openai(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
