"""Turns as a chat template takes them: shielded, folded where it has no place for them, and written as it reads them."""

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
"""What opens and what closes a thought."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn for a template: its role there, its message, and the number of that message."""

    role: str
    said: Message
    message: int

    @property
    def content(self) -> str:
        return self.said.content

    @property
    def plain(self) -> bool:
        """Whether the turn is nothing but a role and a text."""
        return not self.said.tool_calls and not self.said.reasoning

    def saying(self, content: str) -> Turn:
        """The same turn with another text, and with that alone."""
        said = replace(self.said, content=content, reasoning="", tool_calls=())
        return replace(self, said=said)


@dataclass(frozen=True, slots=True)
class Form:
    """How a template takes what is more than text.

    ``tool_role`` is its role of a tool's results; ``arguments`` and ``null`` say how it takes calls (None: not at all) and
    whether their turn's missing text is null; ``thoughts`` is its key of thoughts, and ``marks`` are what it knows them
    by within the text.
    """

    tool_role: str | None = None
    arguments: Arguments | None = None
    null: bool = False
    tools: bool = False
    thoughts: str | None = None
    marks: tuple[str, str] | None = None


def write(turn: Turn, form: Form) -> dict[str, Any]:
    """The turn as an object of the template."""
    said = turn.said
    out: dict[str, Any] = {"role": turn.role, "content": said.content}
    if said.reasoning and form.thoughts is not None:
        out[form.thoughts] = said.reasoning
    elif said.reasoning and form.marks is not None:
        out["content"] = marked(said, form.marks)
    if said.tool_calls:
        out["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if form.arguments == "text" else call.parsed(),
                },
            }
            for call in said.tool_calls
        ]
        if form.null and not out["content"]:
            out["content"] = None
    if said.name:
        out["name"] = said.name
    if said.call_id:
        out["tool_call_id"] = said.call_id
    return out


def marked(said: Message, marks: tuple[str, str]) -> str:
    """A message's thoughts between marks, and its text behind them."""
    thought = said.reasoning.strip("\n")
    return f"{marks[0]}\n{thought}\n{marks[1]}\n\n{said.content}"


def shielded(
    encoder: TextEncoder, messages: Sequence[Message], mark: str, tokens: Sequence[str]
) -> list[Turn]:
    """Turns whose texts hold no control token.

    Thoughts, calls and results stand between tokens that are not special to the tokenizer; ``tokens`` are those, and
    nothing within may be read as one of them.
    """

    def inner(text: str) -> str:
        return encoder.shield(text, mark, tokens)

    turns = []
    for index, message in enumerate(messages):
        said = message.mapped(inner)
        if message.role != "tool":
            said = replace(said, content=encoder.shield(message.content, mark))
        turns.append(Turn(message.role, said, index))
    return _named(turns)


def shielded_tools(
    encoder: TextEncoder, tools: Sequence[Mapping[str, Any]], mark: str, tokens: Sequence[str]
) -> list[Any]:
    """Tools whose texts hold no control token."""
    return [map_strings(tool, lambda text: encoder.shield(text, mark, tokens)) for tool in tools]


def _named(turns: list[Turn]) -> list[Turn]:
    """Give a result the name of the tool that its call asked for, where the row leaves it out."""
    names = {call.id: call.name for turn in turns for call in turn.said.tool_calls if call.id}
    return [
        replace(turn, said=replace(turn.said, name=names[turn.said.call_id]))
        if turn.role == "tool" and not turn.said.name and turn.said.call_id in names
        else turn
        for turn in turns
    ]


def renumbered(turns: Sequence[Turn]) -> list[Turn]:
    """The same calls and results under ids of nine letters and digits, as Mistral's templates demand.

    A call or result without an id gets one by its place: results answer the calls before them in order.
    """
    waiting: list[str] = []
    out: list[Turn] = []
    count = 0
    for turn in turns:
        said = turn.said
        if said.tool_calls:
            calls = []
            for call in said.tool_calls:
                count += 1
                calls.append(replace(call, id=_short(call.id or f"call {count}")))
            waiting += [call.id for call in calls]
            said = replace(said, tool_calls=tuple(calls))
        elif turn.said.role == "tool":
            number = _short(said.call_id) if said.call_id else (waiting[0] if waiting else "")
            waiting = [each for each in waiting if each != number]
            said = replace(said, call_id=number or _short("none"))
        out.append(replace(turn, said=said))
    return out


def _short(name: str) -> str:
    if len(name) == 9 and name.isascii() and name.isalnum():
        return name
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:9]


def fold_system(turns: Sequence[Turn]) -> list[Turn]:
    """Put each system text before the user's next, for templates that have no system role."""
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
    """Join neighbours of one role, for templates that want turns to alternate.

    Answers that hold more than text, or count differently, stay apart.
    """
    out: list[Turn] = []
    for turn in turns:
        before = out[-1] if out else None
        if before is not None and _joins(before, turn):
            joined = before.content + "\n\n" + turn.content
            out[-1] = replace(turn, said=replace(turn.said, content=joined))
        else:
            out.append(turn)
    return out


def _joins(before: Turn, turn: Turn) -> bool:
    if before.role != turn.role or turn.role not in ("system", "user", "assistant"):
        return False
    same = before.said.weight == turn.said.weight or turn.role != "assistant"
    return same and before.plain and turn.plain


def all_ends(ends: Sequence[int], plan: Sequence[Turn], count: int) -> tuple[int, ...]:
    """Ends by message: one that was folded into another ends where it begins, so its tokens count as the other's."""
    known = dict(zip((turn.message for turn in plan), ends, strict=True))
    out: list[int] = []
    for index in range(count):
        out.append(max(known.get(index, 0), out[-1] if out else 0))
    return tuple(out)
