"""Conversations as rows: one list of turns (chat messages, ShareGPT), or a prompt and a completion, as TRL reads them.

In ``meta`` the turns stay without the texts that are in the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nfilter import JSON, Message, Sample, is_number
from nfilter_io.cells import (
    RowError,
    as_number_type,
    as_text,
    dump_cell,
    json_style,
    json_type,
    load_cell,
    number_type,
    quoted,
)
from nfilter_io.layout import Layout
from nfilter_io.row_parts import (
    KEEP,
    TOOLS,
    Parsed,
    filled_column,
    restore_system,
    system_beside,
    tools_beside,
)
from nfilter_io.turns import (
    Turn,
    begins_turns,
    fill_turn,
    keys_of,
    new_turn,
    read_turn,
    role_of,
)

TURNS: Final = {
    "messages": ("messages", "role"),
    "sharegpt": ("conversations", "from"),
}
"""The role of the column of each shape with one list of turns, and the key of a turn's speaker."""

_SPEAKER: Final = "role"
_TEXT: Final = "content"
_ROLES: Final = ("user", "assistant")  # of a prompt and a completion that are texts


@dataclass(frozen=True, slots=True)
class _Conversation:
    """The messages up to the response, the turns without their texts, how they were written, and what no message has."""

    messages: tuple[Message, ...]
    turns: list[dict[str, Any]]
    keep: dict[str, JSON]
    not_carried: list[str]


def _conversation(raw: Sequence[Any], usual: str, column: str) -> _Conversation:
    """Read a list of turns, whose speakers are usually under ``usual``; ``column`` is named in errors. Raises RowError."""
    turns = [read_turn(turn, at, usual) for at, turn in enumerate(raw, 1)]
    messages = [turn.message for turn in turns]
    last = max((at for at, m in enumerate(messages) if m.role == "assistant"), default=None)
    if last is None:
        raise RowError(f"the field {quoted(column)} has no turn of an assistant")
    if not any(message.role == "user" for message in messages[:last]):
        raise RowError(f"the field {quoted(column)} has no turn of a user before the response")
    keep: dict[str, JSON] = {}
    text = raw[last].get(keys_of(raw[last], usual)[1])
    form = number_type(text) if is_number(text) else None
    if form is not None:
        keep["form"] = form
    if turns[last].form:
        keep["turn"] = dict(turns[last].form)
    bare = [
        _without_text(turn, turns[at], keys_of(turn, usual)[1], at, last)
        for at, turn in enumerate(raw)
    ]
    not_carried = [name for turn in turns[: last + 1] for name in turn.not_carried]
    return _Conversation(tuple(messages[: last + 1]), bare, keep, not_carried)


def _parsed(
    row: Mapping[str, Any], layout: Layout, read: _Conversation, cells: Mapping[str, Any]
) -> Parsed:
    """Add the system prompt and the tools in columns of their own; ``cells`` are those of the turns without their texts."""
    meta = dict(row)
    keep = dict(read.keep)
    system, beside = system_beside(row, layout, meta, keep, read.messages[0])
    meta.update(cells)
    if keep:
        meta[KEEP] = keep
    tools = tools_beside(row, layout)
    return Parsed((*system, *read.messages), meta, tools, (*read.not_carried, *beside))


# --- one list of turns -------------------------------------------------------------------------------------------


def parse_turns(row: Mapping[str, Any], layout: Layout) -> Parsed:
    """Parse a row with one list of turns, which may be JSON text; raise RowError."""
    role, usual = TURNS[layout.shape]
    column = layout.column(role)
    cell = row.get(column)
    raw = _load_turns(cell, column)
    read = _conversation(raw, usual, column)
    if isinstance(cell, str):
        read.keep["style"] = json_style(cell, raw)
    return _parsed(row, layout, read, {column: read.turns})


def restore_turns(
    sample: Sample, layout: Layout, meta: dict[str, Any], keep: Mapping[str, Any]
) -> dict[str, JSON]:
    """Return the row that ``parse_turns`` read, with the sample's current response."""
    role, usual = TURNS[layout.shape]
    column = layout.column(role)
    turns, _ = _restored(sample, layout, meta, keep, meta.get(column), usual)
    meta[column] = dump_cell(turns, keep["style"]) if "style" in keep else turns
    return meta


def _restored(
    sample: Sample,
    layout: Layout,
    meta: dict[str, Any],
    keep: Mapping[str, Any],
    before: Any,
    usual: str,
) -> tuple[list[dict[str, Any]], bool]:
    """Return the turns of a sample, and whether they are those that were read; write system prompt and tools to ``meta``."""
    messages = sample.messages
    if "system" in keep and messages and messages[0].role == "system":
        restore_system(sample, layout, meta)
        messages = messages[1:]
    last = max((at for at, m in enumerate(messages) if m.role == "assistant"), default=-1)
    form = keep.get("turn", {})
    filled = _fill_turns(before, messages, usual, form) if isinstance(before, list) else None
    turns = filled
    if turns is None:
        speaker, text = keys_of(before[0] if isinstance(before, list) and before else None, usual)
        turns = [new_turn(message, speaker, text) for message in messages]
        if sample.tools and filled_column(meta, layout, "tools", TOOLS) is None:
            meta[layout.optional_column("tools") or TOOLS[0]] = [
                dict(tool) for tool in sample.tools
            ]
    if last >= 0 and "form" in keep:
        key = keys_of(turns[last], usual)[1]
        turns[last][key] = as_number_type(turns[last][key], keep["form"])
    return turns, filled is not None


# --- a prompt and a completion -----------------------------------------------------------------------------------


def parse_completion(row: Mapping[str, Any], layout: Layout) -> Parsed:
    """Parse a row with a prompt and a completion; each is a list of turns, which may be JSON text, or a text.

    An assistant's turns in the prompt are out of the loss (weight 0), as in TRL.

    Raises:
        RowError: a turn cannot be read, the completion has no turn of an assistant, or nothing is before the response.
    """
    columns = layout.column("prompt"), layout.column("completion")
    (prompt, prompt_style), (completion, style) = (
        _part(row.get(column), column, role) for column, role in zip(columns, _ROLES, strict=True)
    )
    if not any(isinstance(turn, Mapping) and _role(turn) == "assistant" for turn in completion):
        raise RowError(f"the field {quoted(columns[1])} has no turn of an assistant")
    raw = [*prompt, *completion]
    read = _conversation(raw, _SPEAKER, columns[1])
    read.keep["prompt"] = len(prompt)
    read.keep["styles"] = [prompt_style, style]
    messages = tuple(
        replace(message, weight=0.0)
        if at < len(prompt) and message.role == "assistant"
        else message
        for at, message in enumerate(read.messages)
    )
    parts = (read.turns[: len(prompt)], read.turns[len(prompt) :])
    cells = {
        column: part[0][_TEXT] if written == "text" else part
        for column, part, written in zip(columns, parts, (prompt_style, style), strict=True)
    }
    return _parsed(row, layout, replace(read, messages=messages), cells)


def _role(turn: Mapping[str, Any]) -> str | None:
    key, _ = keys_of(turn, _SPEAKER)
    return role_of(turn.get(key), key)


def _part(cell: Any, column: str, role: str) -> tuple[list[Any], JSON]:
    """Return the turns of a prompt or a completion, and how they were written: ``text``, the style of JSON text, or None."""
    if isinstance(cell, str) and begins_turns(cell):
        turns = _load_turns(cell, column)
        return turns, json_style(cell, turns)
    if isinstance(cell, str) or is_number(cell):
        if role == "user" and not str(cell).strip():
            raise RowError(f"the field {quoted(column)} is empty")
        return [{_SPEAKER: role, _TEXT: cell}], "text"
    return _load_turns(cell, column), None


def _turns_of(cell: Any, role: str, style: JSON) -> list[Any]:
    """Return the turns of a cell of ``meta``; a text is one turn."""
    return [{_SPEAKER: role, _TEXT: cell}] if style == "text" else list(cell or ())


def restore_completion(
    sample: Sample, layout: Layout, meta: dict[str, Any], keep: Mapping[str, Any]
) -> dict[str, JSON]:
    """Return the row that ``parse_completion`` read, with the sample's current response."""
    columns = layout.column("prompt"), layout.column("completion")
    before = None
    if "prompt" in keep:
        before = [
            turn
            for column, role, style in zip(columns, _ROLES, keep["styles"], strict=True)
            for turn in _turns_of(meta.get(column), role, style)
        ]
    turns, as_read = _restored(sample, layout, meta, keep, before, _SPEAKER)
    size = keep["prompt"] if as_read else max(len(turns) - 1, 0)
    styles = keep["styles"] if as_read else (None, None)
    for column, part, style in zip(columns, (turns[:size], turns[size:]), styles, strict=True):
        if style is None:
            meta[column] = part
        else:
            meta[column] = part[0][_TEXT] if style == "text" else dump_cell(part, style)
    return meta


# --- turns -------------------------------------------------------------------------------------------------------


def _load_turns(cell: Any, column: str) -> list[Any]:
    turns = load_cell(cell, column) if isinstance(cell, str) else cell
    if turns is None:
        raise RowError(f"the field {quoted(column)} is missing")
    if not isinstance(turns, list):
        raise RowError(f"the field {quoted(column)} is {json_type(turns)}, not a list of turns")
    if not turns:
        raise RowError(f"the field {quoted(column)} has no turns")
    return turns


def _without_text(
    turn: Mapping[str, Any], read: Turn, key: str, at: int, last: int
) -> dict[str, Any]:
    """Return the turn without the text that is in the messages; turns after the response are complete."""
    if at == last:
        number = {key: None} if is_number(turn.get(key)) else {}
        return {**read.template, **number}
    if at < last and read.message.content and turn.get(key) == read.message.content:
        return {**turn, key: None}
    return dict(turn)


def _fill_turns(
    before: Sequence[Any],
    messages: Sequence[Message],
    usual: str,
    form: Mapping[str, Any],
) -> list[dict[str, Any]] | None:
    """Return the original turns with the messages' texts inserted; None if they do not match."""
    if len(before) < len(messages):
        return None
    turns: list[dict[str, Any]] = []
    for at, turn in enumerate(before):
        if at >= len(messages):
            turns.append(dict(turn))
            continue
        message = messages[at]
        role_key, key = keys_of(turn, usual)
        if role_of(turn[role_key], role_key) != message.role:
            return None
        if at == len(messages) - 1:
            turns.append(fill_turn(turn, message, form, usual))
        elif _text_differs(turn.get(key), message, key):
            turns.append({**turn, key: message.content})
        else:
            turns.append(dict(turn))
    return turns


def _text_differs(value: Any, message: Message, key: str) -> bool:
    """Return whether a turn before the response has another text than the message."""
    if message.tool_calls or isinstance(value, list):
        return value is None and message.content != ""
    return value is None or as_text(value, key) != message.content
