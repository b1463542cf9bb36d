"""Convert turns to the form that a chat template accepts: shielded, folded, and as template objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from nfilter import Message, map_strings
from nfilter_hf.tokens import TextEncoder

Arguments = Literal["object", "text"]
THOUGHTS: Final[tuple[tuple[str, str], ...]] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""The opening and closing marks of reasoning."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn for a template: its role, its message, and the index of the message."""

    role: str
    message: Message
    index: int

    @property
    def content(self) -> str:
        return self.message.content

    @property
    def plain(self) -> bool:
        """Whether the turn has only a role and a text."""
        return not self.message.tool_calls and not self.message.reasoning

    def saying(self, content: str) -> Turn:
        """Return the turn with only the text ``content``."""
        message = replace(self.message, content=content, reasoning="", tool_calls=())
        return replace(self, message=message)


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which a template accepts content other than text.

    ``tool_role`` is its role of tool results; ``arguments`` is the form of calls (None: not supported), ``null`` whether the
    missing text of their turn is null; ``thoughts`` is its key of reasoning, and ``marks`` are the marks with which it
    recognises reasoning in a text.
    """

    tool_role: str | None = None
    arguments: Arguments | None = None
    null: bool = False
    tools: bool = False
    thoughts: str | None = None
    marks: tuple[str, str] | None = None


def write(turn: Turn, form: Form) -> dict[str, Any]:
    """Return the turn as a template object."""
    message = turn.message
    out: dict[str, Any] = {"role": turn.role, "content": message.content}
    if message.reasoning and form.thoughts is not None:
        out[form.thoughts] = message.reasoning
    elif message.reasoning and form.marks is not None:
        out["content"] = marked(message, form.marks)
    if message.tool_calls:
        out["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if form.arguments == "text" else call.parsed(),
                },
            }
            for call in message.tool_calls
        ]
        if form.null and not out["content"]:
            out["content"] = None
    if message.name:
        out["name"] = message.name
    if message.call_id:
        out["tool_call_id"] = message.call_id
    return out


def marked(message: Message, marks: tuple[str, str]) -> str:
    """Return a message's reasoning between marks, followed by its text."""
    thought = message.reasoning.strip("\n")
    return f"{marks[0]}\n{thought}\n{marks[1]}\n\n{message.content}"


def shielded(
    encoder: TextEncoder, messages: Sequence[Message], mark: str, tokens: Sequence[str]
) -> list[Turn]:
    """Return turns whose texts have no control tokens.

    ``tokens`` are the tokens around reasoning, calls and results that are not special to the tokenizer; they are broken inside
    these as well.
    """

    def inner(text: str) -> str:
        return encoder.shield(text, mark, tokens)

    turns = []
    for index, message in enumerate(messages):
        safe = message.mapped(inner)
        if message.role != "tool":
            safe = replace(safe, content=encoder.shield(message.content, mark))
        turns.append(Turn(message.role, safe, index))
    return _named(turns)


def shielded_tools(
    encoder: TextEncoder, tools: Sequence[Mapping[str, Any]], mark: str, tokens: Sequence[str]
) -> list[Any]:
    """Return tools whose texts have no control tokens."""
    return [map_strings(tool, lambda text: encoder.shield(text, mark, tokens)) for tool in tools]


def _named(turns: list[Turn]) -> list[Turn]:
    """Add the tool's name to results without one, from their calls."""
    names = {call.id: call.name for turn in turns for call in turn.message.tool_calls if call.id}
    return [
        replace(turn, message=replace(turn.message, name=names[turn.message.call_id]))
        if turn.role == "tool" and not turn.message.name and turn.message.call_id in names
        else turn
        for turn in turns
    ]


def renumbered(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with call ids of nine letters and digits, which Mistral's templates require.

    Calls and results without an id get one by their order: results answer the calls before them in order.
    """
    waiting: list[str] = []
    out: list[Turn] = []
    count = 0
    for turn in turns:
        message = turn.message
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                count += 1
                calls.append(replace(call, id=_short(call.id or f"call {count}")))
            waiting += [call.id for call in calls]
            message = replace(message, tool_calls=tuple(calls))
        elif turn.message.role == "tool":
            number = _short(message.call_id) if message.call_id else (waiting[0] if waiting else "")
            waiting = [each for each in waiting if each != number]
            message = replace(message, call_id=number or _short("none"))
        out.append(replace(turn, message=message))
    return out


def _short(name: str) -> str:
    if len(name) == 9 and name.isascii() and name.isalnum():
        return name
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:9]


def fold_system(turns: Sequence[Turn]) -> list[Turn]:
    """Prepend each system text to the next user turn, for templates without a system role."""
    out: list[Turn] = []
    waiting: list[Turn] = []
    for turn in turns:
        if turn.role == "system":
            waiting.append(turn)
        elif turn.role == "user" and waiting:
            text = "\n\n".join([*(w.content for w in waiting), turn.content])
            out.append(turn.saying(text))
            waiting = []
        else:
            out.append(turn)
    if waiting:
        text = "\n\n".join(w.content for w in waiting)
        out.append(replace(waiting[-1].saying(text), role="user"))
    return out


def merge(turns: Sequence[Turn]) -> list[Turn]:
    """Join adjacent turns of one role, for templates that require alternating roles.

    Answers with tool calls or reasoning, or with different weights, are not joined.
    """
    out: list[Turn] = []
    for turn in turns:
        before = out[-1] if out else None
        if before is not None and _joins(before, turn):
            joined = before.content + "\n\n" + turn.content
            out[-1] = replace(turn, message=replace(turn.message, content=joined))
        else:
            out.append(turn)
    return out


def _joins(before: Turn, turn: Turn) -> bool:
    if before.role != turn.role or turn.role not in ("system", "user", "assistant"):
        return False
    same = before.message.weight == turn.message.weight or turn.role != "assistant"
    return same and before.plain and turn.plain


def all_ends(ends: Sequence[int], plan: Sequence[Turn], count: int) -> tuple[int, ...]:
    """Return the ends by message; a folded message ends where the other one begins, so its tokens belong to the other."""
    known = dict(zip((turn.index for turn in plan), ends, strict=True))
    out: list[int] = []
    for index in range(count):
        out.append(max(known.get(index, 0), out[-1] if out else 0))
    return tuple(out)
