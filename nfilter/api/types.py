"""The values that flow through a run: frozen, and numpy at most.

Nothing here knows a method, a model or a file format. A stage receives these values and returns new ones; it
never changes one in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""A value that survives disk and workers. NaN and infinities are not JSON and are refused when written."""

IntArray: TypeAlias = npt.NDArray[np.int64]
Int16Array: TypeAlias = npt.NDArray[np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
UInt32Array: TypeAlias = npt.NDArray[np.uint32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float32]

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

_EMPTY: Mapping[str, Any] = MappingProxyType({})


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with ``change`` applied to every string in it, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value


def strings_in(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant makes. ``arguments`` is the JSON text of an object; ``id`` is empty where there is none.

    Raises ValueError for arguments of another form.
    """

    name: str
    arguments: str
    id: str = ""

    def __post_init__(self) -> None:
        self.parsed()

    def parsed(self) -> Mapping[str, JSON]:
        """The arguments as an object. Raises ValueError where they are none."""
        value = json.loads(self.arguments)
        if isinstance(value, dict):
            return value
        raise ValueError(f"the arguments of {self.name!r} are not a JSON object")

    def mapped(self, change: Callable[[str], str]) -> ToolCall:
        """The call with ``change`` applied to its name, its id and every string of its arguments."""
        given = self.parsed()
        changed = map_strings(given, change)
        text = self.arguments if changed == given else json.dumps(changed, ensure_ascii=False)
        return ToolCall(change(self.name), text, change(self.id))


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    An assistant's turn may hold ``reasoning`` (its thoughts, before the content) and ``tool_calls``. A tool's turn holds
    the result of the call ``call_id``; ``name`` is that of the tool, or of whoever speaks. ``weight`` multiplies the
    loss of the turn's tokens: 0 takes the turn out of it.
    """

    role: Role
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    call_id: str = ""
    weight: float = 1.0

    def shown(self) -> str:
        """The turn for a person: its thoughts, its content, and a line for each call."""
        parts = [f"(thought: {self.reasoning})" if self.reasoning else "", self.content]
        parts += [f"(calls {call.name} {call.arguments})" for call in self.tool_calls]
        return "\n".join(filter(None, parts))

    def texts(self) -> Iterator[str]:
        """Every text of the turn: content, reasoning, names, ids, and the strings of the arguments."""
        yield from filter(None, (self.content, self.reasoning, self.name, self.call_id))
        for call in self.tool_calls:
            yield from filter(None, (call.name, call.id))
            yield from strings_in(call.parsed())

    def mapped(self, change: Callable[[str], str]) -> Message:
        """The turn with ``change`` applied to all of its texts."""
        return replace(
            self,
            content=change(self.content),
            reasoning=change(self.reasoning),
            tool_calls=tuple(call.mapped(change) for call in self.tool_calls),
            name=change(self.name),
            call_id=change(self.call_id),
        )

    def packed(self) -> list[Any]:
        """The turn as JSON: role and content, then an object of what else it holds, where it holds anything."""
        more: dict[str, Any] = {
            key: value
            for key, value in (
                ("reasoning", self.reasoning),
                ("tool_calls", [[call.name, call.arguments, call.id] for call in self.tool_calls]),
                ("name", self.name),
                ("call_id", self.call_id),
            )
            if value
        }
        if self.weight != 1.0:
            more["weight"] = self.weight
        return [self.role, self.content, more] if more else [self.role, self.content]

    @classmethod
    def unpacked(cls, value: Sequence[Any]) -> Message:
        """The inverse of ``packed``."""
        more = dict(value[2]) if len(value) > 2 else {}
        calls = tuple(ToolCall(*call) for call in more.pop("tool_calls", ()))
        return cls(value[0], value[1], tool_calls=calls, **more)


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation. Its last assistant message is the response under question.

    ``tools`` are the tools that the assistant may call, each an object as OpenAI's chat format writes it.
    ``notes`` hold what stages wrote, each under its stage's ``into``; ``meta`` holds the source's columns, read
    only and without the truth. A dropped sample stays on record, out of later stages. ``why`` is the reason for
    the last change or decision of the stage at work; the engine records it and clears it between stages.
    """

    id: str
    messages: tuple[Message, ...]
    notes: Mapping[str, JSON] = field(default_factory=lambda: _EMPTY)
    meta: Mapping[str, JSON] = field(default_factory=lambda: _EMPTY)
    parents: tuple[str, ...] = ()
    weight: float = 1.0
    pinned: bool = False
    dropped: str | None = None
    why: str | None = None
    tools: tuple[Mapping[str, JSON], ...] = ()

    @classmethod
    def made(
        cls,
        stage: str,
        parents: Sequence[str],
        messages: Sequence[Message],
        reason: str,
        *,
        draw: int = 0,
    ) -> Sample:
        """A new sample that ``stage`` (its label, ``ctx.stage``) made from ``parents``, ids of samples that it was given.

        Its id is a hash of stage, parents and ``draw``, which tells several from the same parents apart: the same in
        every run, whatever the text became.
        """
        _need_reason(reason)
        key = hashlib.sha256(json.dumps([stage, list(parents), draw]).encode()).hexdigest()[:16]
        return cls(f"made-{key}", tuple(messages), parents=tuple(parents), why=reason)

    @property
    def response(self) -> str:
        """The content of the last message when an assistant wrote it, else the empty string."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1].content
        return ""

    @property
    def context(self) -> tuple[Message, ...]:
        """The messages before the response: what a model is shown when it is asked for an answer."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[:-1]
        return self.messages

    @property
    def query(self) -> str:
        """The content of the last user message before the response, or the empty string."""
        for message in reversed(self.context):
            if message.role == "user":
                return message.content
        return ""

    def note(self, key: str, value: JSON) -> Sample:
        """Write ``value`` under ``key``; a note of the same name is replaced."""
        return replace(self, notes=MappingProxyType({**self.notes, key: value}))

    @property
    def calls_tools(self) -> bool:
        """Whether the response is, or holds, a call of a tool: no text can take its place."""
        return bool(self.messages and self.messages[-1].tool_calls)

    def relabel(self, response: str, reason: str) -> Sample:
        """Replace the response. ``reason`` is recorded with the old and the new text.

        The turn keeps its weight. Another text has no reasoning: the old one led to the old text.
        """
        _need_reason(reason)
        return replace(self, messages=(*self.context, self._answer(response)), why=reason)

    def _answer(self, response: str) -> Message:
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "assistant":
            return Message("assistant", response)
        if last.content == response:
            return last
        return Message("assistant", response, weight=last.weight)

    def drop(self, reason: str) -> Sample:
        """Take the sample out of all later stages and of training."""
        _need_reason(reason)
        return replace(self, dropped=reason, why=reason)

    def weigh(self, weight: float, reason: str) -> Sample:
        """Set the weight of the whole sample in the training loss (finite, not negative)."""
        _need_reason(reason)
        if not (0.0 <= weight < float("inf")):
            raise ValueError(f"a sample's weight is finite and not negative, not {weight!r}")
        return replace(self, weight=weight, why=reason)

    def keep(self, reason: str) -> Sample:
        """State why the sample was looked at and kept. Nothing changes but the record."""
        _need_reason(reason)
        return replace(self, why=reason)


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise ValueError("every decision about a sample needs a reason that says something")


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One encoded conversation of T tokens. All arrays have length T; none changes length after encoding.

    ``response`` marks an assistant's tokens, end-of-sequence included, and is fixed at encoding. ``weights`` are
    0 wherever ``response`` is False, always; 0 elsewhere takes a token out of the loss. ``reasons`` is a bit set:
    which stage set a weight to 0, the bits being named in the run's manifest. ``scores`` are NaN where undefined.
    ``text`` is the rendered conversation, whose characters ``spans`` count. ``cut`` is the response mask of the tokens
    that max_length left out, [L - T] of a conversation of L tokens. ``remarks`` say what the chat template did to the
    conversation that a person should hear of, each a clause; of a sample without tokens, why it has none. They are
    counted at encoding and not kept on disk.
    """

    id: str
    ids: IntArray
    response: BoolArray
    turn: Int16Array
    spans: Int32Array
    weights: FloatArray
    scores: Mapping[str, FloatArray] = field(default_factory=lambda: _EMPTY)
    reasons: UInt32Array = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))
    text: str = ""
    cut: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        length = len(self.ids)
        if len(self.reasons) == 0 and length:
            object.__setattr__(self, "reasons", np.zeros(length, dtype=np.uint32))
        for name in ("response", "turn", "weights", "reasons"):
            if getattr(self, name).shape != (length,):
                shape = getattr(self, name).shape
                raise ValueError(
                    f"token sample {self.id!r}: {name} has shape {shape}, not ({length},)"
                )
        if self.spans.shape != (length, 2):
            raise ValueError(
                f"token sample {self.id!r}: spans has shape {self.spans.shape}, not ({length}, 2)"
            )
        for key, values in self.scores.items():
            if values.shape != (length,):
                raise ValueError(
                    f"token sample {self.id!r}: score {key!r} has shape {values.shape}, not ({length},)"
                )
        if np.any(self.weights[~self.response] != 0):
            raise ValueError(f"token sample {self.id!r}: a weight outside the response is not 0")

    @property
    def predicted(self) -> BoolArray:
        """The positions ([T]) that have a loss: the response's, but for the first token, which nothing predicts."""
        wanted: BoolArray = self.response.copy()
        wanted[:1] = False
        return wanted

    def score(self, key: str, values: FloatArray) -> TokenSample:
        """Add a score of shape [T], NaN where it is undefined."""
        scores = MappingProxyType({**self.scores, key: np.asarray(values, dtype=np.float32)})
        return replace(self, scores=scores)

    def mask(self, positions: BoolArray, bit: int) -> TokenSample:
        """Take the tokens at ``positions`` ([T], bool) out of the loss, for the reason with number ``bit``."""
        hit = positions & self.response
        weights = np.where(hit, np.float32(0), self.weights)
        reasons = np.where(hit, self.reasons | np.uint32(1 << bit), self.reasons)
        return replace(self, weights=weights, reasons=reasons.astype(np.uint32))

    def weigh(self, factors: FloatArray, bit: int) -> TokenSample:
        """Multiply the weights of the response by ``factors`` ([T], not negative); 0 is a mask for reason ``bit``."""
        weights = np.where(self.response, self.weights * np.asarray(factors, np.float32), 0)
        lost = (weights == 0) & (self.weights != 0)
        reasons = np.where(lost, self.reasons | np.uint32(1 << bit), self.reasons)
        return replace(self, weights=weights.astype(np.float32), reasons=reasons.astype(np.uint32))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. ``temperature`` 0 is greedy; ``seed`` is this request's own."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One completion asked of a model. ``sample_id`` says for whom; ``draw`` tells repeated draws apart."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    logprobs: bool = False
    sample_id: str = ""
    draw: int = 0
    tools: tuple[Mapping[str, JSON], ...] = ()


FailureKind = Literal["refused", "too_long", "parse", "timeout", "server", "memory"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a completion could not be had. A failure is terminal, recorded, and never means "keep"."""

    kind: FailureKind
    detail: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered: ``logprobs`` are natural logs of what was generated, the end token included.

    ``usd`` is what it cost in dollars, attempts that failed included; None where nothing is known of a price.
    ``reasoning`` holds the thoughts that came before the text, which are no part of it; None where there are none.
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

    @property
    def nll(self) -> float | None:
        """Mean negative log-likelihood of the generated tokens (RobustFT, Eq. 7); None without logprobs."""
        if not self.logprobs:
            return None
        return -sum(self.logprobs) / len(self.logprobs)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on disk: an adapter over a base, or whole weights. ``digest`` is SHA-256 of its weights."""

    path: str
    kind: Literal["adapter", "full"]
    base: str
    digest: str


@dataclass(frozen=True, slots=True)
class NoiseSpan:
    """Characters [``start``, ``end``) of a response that are known to be noise, and of which ``kind``."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """One readable row of a source: its sample, and what is known to be true of it.

    ``not_carried`` names what the row holds that changes its meaning and that no part of the sample says: ``images``, or
    ``refusal`` of a message. ``truth`` is the true label. ``noise`` has the parts of the response that are noise, in order, without overlap: the
    rest is signal; None where nothing is known of them.
    """

    sample: Sample
    truth: str | None = None
    noise: tuple[NoiseSpan, ...] | None = None
    not_carried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One row that could not be read. ``line`` counts from 1; ``raw`` is an excerpt, cut to a bounded size."""

    line: int
    error: str
    raw: str
