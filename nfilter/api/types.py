"""The values that flow through a run: frozen dataclasses and numpy arrays.

They are independent of methods, models and file formats. A stage receives these values and returns new ones; it never
changes one in place.
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

from nfilter.api.strict_json import strict_json

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""A JSON value. NaN and infinities are not JSON; writing them is an error."""

IntArray: TypeAlias = npt.NDArray[np.int64]
"""An array of int64, such as token ids."""
Int16Array: TypeAlias = npt.NDArray[np.int16]
"""An array of int16."""
Int32Array: TypeAlias = npt.NDArray[np.int32]
"""An array of int32."""
UInt32Array: TypeAlias = npt.NDArray[np.uint32]
"""An array of uint32."""
BoolArray: TypeAlias = npt.NDArray[np.bool_]
"""An array of bool, such as a mask of tokens."""
FloatArray: TypeAlias = npt.NDArray[np.float32]
"""An array of float32, such as weights, scores and vectors."""

Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks in a turn of a conversation."""
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
"""All roles."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_MOST_LEVELS = 100
"""Objects and lists in one another in the arguments of a tool call. Every change of them recurses, per level."""


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with ``change`` applied to every string in it, including keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


def _is_deep(value: Any) -> bool:
    """Return whether a JSON value has more levels than are allowed, without recursion."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        lists = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for each in lists for item in each if isinstance(item, dict | list)]
        if not level:
            return False
    return True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of an assistant. ``arguments`` is the JSON text of an object; ``id`` may be empty.

    Raises:
        ValueError: if ``arguments`` is not the JSON text of an object (a key twice and NaN are not JSON), or has more than 100 levels.
    """

    name: str
    arguments: str
    id: str = ""

    def __post_init__(self) -> None:
        if _is_deep(self.parsed()):
            raise ValueError(self._too_deep())

    def parsed(self) -> Mapping[str, JSON]:
        """Return the arguments as an object.

        Raises:
            ValueError: if they are not one.
        """
        try:
            value = strict_json(self.arguments)
        except RecursionError:
            raise ValueError(self._too_deep()) from None
        if isinstance(value, dict):
            return value
        raise ValueError(f"the arguments of {self.name!r} are not a JSON object")

    def _too_deep(self) -> str:
        return f"the arguments of {self.name!r} have more than {_MOST_LEVELS} levels"

    def mapped(self, change: Callable[[str], str]) -> ToolCall:
        """Return the call with ``change`` applied to its name, its id and every string of its arguments."""
        given = self.parsed()
        changed = map_strings(given, change)
        text = self.arguments if changed == given else json.dumps(changed, ensure_ascii=False)
        return ToolCall(change(self.name), text, change(self.id))


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    An assistant's turn may have ``reasoning`` (before the content) and ``tool_calls``. A tool's turn has the result of the
    call ``call_id``; ``name`` is the name of the tool or of the speaker. ``weight`` multiplies the loss of the turn's tokens: 0
    removes the turn from the loss.
    """

    role: Role
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    call_id: str = ""
    weight: float = 1.0

    def shown(self) -> str:
        """Return the turn as text for people: reasoning, content, and one line per tool call."""
        parts = [f"(thought: {self.reasoning})" if self.reasoning else "", self.content]
        parts += [f"(calls {call.name} {call.arguments})" for call in self.tool_calls]
        return "\n".join(filter(None, parts))

    def texts(self) -> Iterator[str]:
        """Yield every text of the turn: content, reasoning, names, ids, and the strings of the arguments."""
        yield from filter(None, (self.content, self.reasoning, self.name, self.call_id))
        for call in self.tool_calls:
            yield from filter(None, (call.name, call.id))
            yield from strings_in(call.parsed())

    def mapped(self, change: Callable[[str], str]) -> Message:
        """Return the turn with ``change`` applied to all of its texts."""
        return replace(
            self,
            content=change(self.content),
            reasoning=change(self.reasoning),
            tool_calls=tuple(call.mapped(change) for call in self.tool_calls),
            name=change(self.name),
            call_id=change(self.call_id),
        )

    def packed(self) -> list[Any]:
        """Return the turn as JSON: role, content, and an object of the other fields if any is set."""
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
        """Return the turn from the result of ``packed``."""
        more = dict(value[2]) if len(value) > 2 else {}
        calls = tuple(ToolCall(*call) for call in more.pop("tool_calls", ()))
        return cls(value[0], value[1], tool_calls=calls, **more)


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation. Its last assistant message is the response, whose label is checked.

    ``tools`` are the tools that the assistant may call, objects in OpenAI's chat format. ``notes`` are the values that stages
    wrote, each under its stage's ``into``; ``meta`` has the source's columns, read-only and without the truth. A dropped sample
    stays on record and is not passed to later stages. ``why`` is the reason for the last change or decision of the running
    stage; the engine records it and clears it between stages. In a preference pair, ``rejected`` is the response that was
    judged worse than the other one; stages may exchange the two and change neither text.
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
    rejected: Message | None = None

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
        """Return a new sample that ``stage`` (its label, ``ctx.stage``) created from ``parents``, ids of samples it received.

        Its id is a hash of stage, parents and ``draw``, which distinguishes several samples of the same parents. The id does
        not depend on the text, so it is the same in every run.
        """
        _need_reason(reason)
        key = hashlib.sha256(json.dumps([stage, list(parents), draw]).encode()).hexdigest()[:16]
        return cls(f"made-{key}", tuple(messages), parents=tuple(parents), why=reason)

    @property
    def response(self) -> str:
        """The content of the last message if it is an assistant's, else an empty text."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1].content
        return ""

    @property
    def context(self) -> tuple[Message, ...]:
        """The messages before the response; they are the prompt when a model is asked for an answer."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[:-1]
        return self.messages

    @property
    def query(self) -> str:
        """The content of the last user message before the response, else an empty text."""
        for message in reversed(self.context):
            if message.role == "user":
                return message.content
        return ""

    def note(self, key: str, value: JSON) -> Sample:
        """Return the sample with the note ``key``, which replaces a note of the same name."""
        return replace(self, notes=MappingProxyType({**self.notes, key: value}))

    @property
    def calls_tools(self) -> bool:
        """Whether the response has tool calls; such a response cannot be replaced by a text."""
        return bool(self.messages and self.messages[-1].tool_calls)

    def relabel(self, response: str, reason: str) -> Sample:
        """Return the sample with another response. ``reason`` is recorded with the old and the new text.

        The turn keeps its weight. A new text has no reasoning, because the old reasoning led to the old text. The only other
        response of a preference pair is its rejected one: the two are exchanged.

        Raises:
            ValueError: for any other text in a preference pair.
        """
        _need_reason(reason)
        if self.rejected is not None and response != self.response:
            if response != self.rejected.content:
                raise ValueError(
                    f"sample {self.id!r} is a preference pair: its response can be exchanged with the rejected one, swap(reason), "
                    "and not replaced by another text"
                )
            return self.swap(reason)
        return replace(self, messages=(*self.context, self._answer(response)), why=reason)

    def swap(self, reason: str) -> Sample:
        """Return the preference pair with its two responses exchanged. The weight of the turn in the loss stays in place.

        Raises:
            ValueError: if the sample has no rejected response, or no response.
        """
        _need_reason(reason)
        last = self.messages[-1] if self.messages else None
        if self.rejected is None or last is None or last.role != "assistant":
            raise ValueError(f"sample {self.id!r} is no preference pair: it has one response")
        chosen = replace(self.rejected, weight=last.weight)
        rejected = replace(last, weight=self.rejected.weight)
        return replace(self, messages=(*self.context, chosen), rejected=rejected, why=reason)

    def _answer(self, response: str) -> Message:
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "assistant":
            return Message("assistant", response)
        if last.content == response:
            return last
        return Message("assistant", response, weight=last.weight)

    def drop(self, reason: str) -> Sample:
        """Return the sample as dropped from all later stages and from training."""
        _need_reason(reason)
        return replace(self, dropped=reason, why=reason)

    def weigh(self, weight: float, reason: str) -> Sample:
        """Return the sample with another weight in the training loss, finite and not negative.

        Raises:
            ValueError: for any other weight.
        """
        _need_reason(reason)
        if not (0.0 <= weight < float("inf")):
            raise ValueError(f"a sample's weight is finite and not negative, not {weight!r}")
        return replace(self, weight=weight, why=reason)

    def keep(self, reason: str) -> Sample:
        """Return the sample unchanged, with a reason why it is kept, which is recorded."""
        _need_reason(reason)
        return replace(self, why=reason)


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise ValueError("every decision about a sample needs a reason that is not empty")


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One encoded conversation of T tokens. All arrays have length T, which does not change after encoding.

    ``response`` marks the assistant's tokens, including end-of-sequence, and is fixed at encoding. ``weights`` are always 0
    where ``response`` is False; 0 elsewhere removes a token from the loss. ``reasons`` is a bit set of the stages that set a
    weight to 0; the run's tokens/index.json names the bits. ``scores`` are NaN where undefined. ``text`` is the rendered
    conversation, ``spans`` [T, 2] are character offsets in it. ``cut`` is the response mask of the tokens removed by max_length,
    [L - T] for a conversation of L tokens. ``remarks`` are clauses about changes that the chat template made to the
    conversation; for a sample without tokens, the reason. They are counted at encoding and not stored.
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
        """The positions ([T]) that have a loss: those of the response, except the first token, which nothing predicts."""
        wanted: BoolArray = self.response.copy()
        wanted[:1] = False
        return wanted

    @property
    def in_loss(self) -> BoolArray:
        """The tokens ([T]) of the response with a weight that is not 0."""
        weighted: BoolArray = self.weights != 0
        return weighted

    def without_prompt(self) -> TokenSample:
        """Return the first token of the conversation and the predicted tokens, to score the response without its prompt.

        All weights are 0. The first token stays, so that the first token of the response has a prediction.
        """
        at = np.concatenate([[0], np.flatnonzero(self.predicted)])
        weights = np.zeros(len(at), dtype=np.float32)
        return TokenSample(self.id, self.ids[at], at > 0, self.turn[at], self.spans[at], weights)

    def score(self, key: str, values: FloatArray) -> TokenSample:
        """Return the sample with a score of shape [T], NaN where it is undefined."""
        scores = MappingProxyType({**self.scores, key: np.asarray(values, dtype=np.float32)})
        return replace(self, scores=scores)

    def mask(self, positions: BoolArray, bit: int) -> TokenSample:
        """Return the sample with the tokens at ``positions`` ([T], bool) removed from the loss, for the reason ``bit``."""
        hit = positions & self.response
        weights = np.where(hit, np.float32(0), self.weights)
        reasons = np.where(hit, self.reasons | np.uint32(1 << bit), self.reasons)
        return replace(self, weights=weights, reasons=reasons.astype(np.uint32))

    def weigh(self, factors: FloatArray, bit: int) -> TokenSample:
        """Return the sample with weights multiplied by ``factors`` ([T], not negative); 0 masks for the reason ``bit``."""
        weights = np.where(self.response, self.weights * np.asarray(factors, np.float32), 0)
        lost = (weights == 0) & (self.weights != 0)
        reasons = np.where(lost, self.reasons | np.uint32(1 << bit), self.reasons)
        return replace(self, weights=weights.astype(np.float32), reasons=reasons.astype(np.uint32))


@dataclass(frozen=True, slots=True)
class NoiseSpan:
    """Characters [``start``, ``end``) of a response that are known to be noise of a ``kind``."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """One readable row of a source: its sample and its known truth.

    ``truth`` is the true label. ``noise`` has the noise spans of the response, in order and without overlap; the rest is
    signal; None if unknown. ``not_carried`` names content of the row that changes its meaning and that a sample cannot
    represent, e.g. ``images`` or the ``refusal`` of a message.
    """

    sample: Sample
    truth: str | None = None
    noise: tuple[NoiseSpan, ...] | None = None
    not_carried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One unreadable row. ``line`` counts from 1; ``raw`` is an excerpt of bounded size."""

    line: int
    error: str
    raw: str
