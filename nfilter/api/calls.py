"""Calls to models: what is asked, how it is sampled, and the answer or the failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nfilter.api.types import JSON, Message, ToolCall


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is sampled. ``temperature`` 0 is greedy; ``seed`` is the seed of this request."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a model. ``sample_id`` is the sample that it is for; ``draw`` distinguishes repeated draws.

    ``tools`` are in OpenAI's form (``nfilter.tool_schema``). ``tool_choice`` is ``auto``, ``none``, ``required`` or the name of
    the tool that has to be called. ``response_schema`` is the JSON Schema of the answer; a server that can, follows it.
    ``extra`` has further fields of the request, such as ``reasoning_effort``; a local model ignores them.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    logprobs: bool = False
    sample_id: str = ""
    draw: int = 0
    tools: tuple[Mapping[str, JSON], ...] = ()
    tool_choice: str = "auto"
    response_schema: Mapping[str, JSON] | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    def beside_messages(self) -> dict[str, Any]:
        """Return what the request asks for beside its messages and sampling, as JSON; empty for plain text."""
        asked: dict[str, Any] = {}
        if self.tools:
            asked["tools"] = [dict(tool) for tool in self.tools]
            if self.tool_choice != "auto":
                asked["tool_choice"] = self.tool_choice
        if self.response_schema is not None:
            asked["response_schema"] = dict(self.response_schema)
        if self.extra:
            asked["extra"] = dict(self.extra)
        return asked

    def packed(self) -> dict[str, Any]:
        """Return the request as JSON."""
        return {
            "messages": [message.packed() for message in self.messages],
            "sampling": asdict(self.sampling),
            "logprobs": self.logprobs,
            "sample_id": self.sample_id,
            "draw": self.draw,
            **self.beside_messages(),
        }

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> Request:
        """Return the request from the result of ``packed``."""
        sampling = {**value["sampling"], "stop": tuple(value["sampling"]["stop"])}
        return cls(
            **{
                **value,
                "messages": tuple(Message.unpacked(message) for message in value["messages"]),
                "sampling": Sampling(**sampling),
                "tools": tuple(value.get("tools", ())),
            }
        )


FailureKind = Literal["refused", "too_long", "parse", "timeout", "server", "memory"]
"""Why a call has no answer. ``timeout``, ``server`` and ``memory`` are not stored in the journal: a later run makes the call again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call has no answer. A failure is final and recorded, and is not an argument for keeping a sample."""

    kind: FailureKind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer of a model. ``logprobs`` are natural logs of the generated tokens, including the end token.

    ``usd`` is the cost in dollars, including failed attempts; None if the price is unknown. ``reasoning`` is the text before
    the answer that ``text`` does not contain; None if there is none. ``tool_calls`` are the tools that the model asks for.
    """

    text: str
    finish: Literal["stop", "length", "failed"] = "stop"
    logprobs: tuple[float, ...] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failure: Failure | None = None
    cached: bool = False
    usd: float | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def nll(self) -> float | None:
        """Mean negative log-likelihood of the generated tokens (RobustFT, Eq. 7); None without logprobs."""
        if not self.logprobs:
            return None
        return -sum(self.logprobs) / len(self.logprobs)

    @property
    def incomplete(self) -> str | None:
        """The reason that nothing, or not all, was said; None for a complete answer."""
        if self.failure is not None:
            return str(self.failure)
        return "cut off at max_tokens" if self.finish == "length" else None

    def packed(self) -> dict[str, Any]:
        """Return the answer as JSON, without ``cached`` and ``usd``."""
        more: dict[str, Any] = {} if self.reasoning is None else {"reasoning": self.reasoning}
        if self.tool_calls:
            more["tool_calls"] = [[call.name, call.arguments, call.id] for call in self.tool_calls]
        return {
            "text": self.text,
            "finish": self.finish,
            "logprobs": None if self.logprobs is None else list(self.logprobs),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "failure": None if self.failure is None else [self.failure.kind, self.failure.detail],
            **more,
        }

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> Completion:
        """Return the answer from the result of ``packed``."""
        failure, logprobs = value["failure"], value["logprobs"]
        return cls(
            **{
                **value,
                "logprobs": None if logprobs is None else tuple(logprobs),
                "failure": None if failure is None else Failure(*failure),
                "tool_calls": tuple(ToolCall(*call) for call in value.get("tool_calls", ())),
            }
        )


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on disk: an adapter of ``base``, or full weights. ``digest`` is the SHA-256 of its weights."""

    path: str
    kind: Literal["adapter", "full"]
    base: str
    digest: str
