"""Conversion of one turn of a conversation to a message and back.

Supports OpenAI's chat format, ShareGPT, and the flags that exclude a turn from the loss in common trainers. Unknown fields
are reported, so a change of a turn's meaning is never silent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nfilter import Message, Role, ToolCall, is_number
from nfilter_io.cells import (
    RowError,
    as_text,
    dump_cell,
    json_style,
    json_type,
    load_cell,
    quoted,
)

SPEAKERS: Final[Mapping[str, Mapping[str, Role]]] = {
    "role": {
        "system": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "developer": "system",
        "function": "tool",
        "ipython": "tool",
        "observation": "tool",
        "tool_response": "tool",
        "tool_results": "tool",
        "function_call": "assistant",
        "tool_call": "assistant",
        "human": "user",
        "gpt": "assistant",
        "model": "assistant",
        "bot": "assistant",
        "ai": "assistant",
    },
    "from": {
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "chatgpt": "assistant",
        "bard": "assistant",
        "bing": "assistant",
        "system": "system",
        "developer": "system",
        "tool": "tool",
        "observation": "tool",
        "function_response": "tool",
        "tool_response": "tool",
        "tool_results": "tool",
        "function_call": "assistant",
        "tool_call": "assistant",
        "model": "assistant",
        "bot": "assistant",
        "ai": "assistant",
    },
}
"""Role of each speaker name, by the key of the speaker; ``role_of`` ignores case."""

TEXT_KEYS: Final = {"role": "content", "from": "value"}
"""The usual key of a turn's text, by the key of its speaker."""

_SPEAKER: Final = re.compile(rf"[\"'](?:{'|'.join(TEXT_KEYS)})[\"']\s*:")
_SPEAKER_NAMES: Final = {
    "role": {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
    "from": {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"},
}
_CALLERS: Final = frozenset({"function_call", "tool_call"})
_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
_WEIGHTS: Final = ("weight", "loss_weight")
_FLAGS: Final = ("train", "training", "trainable", "loss")
_MASKS: Final = ("masked",)
_IDS: Final = ("tool_call_id", "call_id")
# Metadata that does not change the meaning of a turn.
_METADATA: Final = frozenset(
    {
        "id", "uuid", "message_id", "parent_id", "index", "turn", "position", "timestamp", "created", "created_at", "date",
        "time", "model", "lang", "language", "hash", "source", "tokens", "token_count", "num_tokens", "length", "cost",
        "usage", "finish_reason", "stop_reason", "rating", "score", "type",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """A parsed turn. ``template`` is its object without the message's contents, ``form`` their original format.

    ``not_carried`` names fields that are not in the message.
    """

    message: Message
    template: Mapping[str, Any]
    form: Mapping[str, Any] = field(default_factory=dict)
    not_carried: tuple[str, ...] = ()


def role_of(speaker: Any, role_key: str) -> Role | None:
    """Return the role of a speaker's name, such as ``Human``; None for an unknown one."""
    known = SPEAKERS[role_key]
    return known.get(speaker.strip().lower()) if isinstance(speaker, str) else None


def keys_of(turn: Any, usual: str = "role") -> tuple[str, str]:
    """Return the keys of a turn's speaker and of its text: ``usual`` and its text, or those of the other form where only they are there.

    A file, and even one list, may have turns of both forms: ``role`` and ``content``, ``from`` and ``value``.
    """
    others = [key for key in TEXT_KEYS if key != usual]
    if not isinstance(turn, Mapping):
        return usual, TEXT_KEYS[usual]
    speaker = next((key for key in (usual, *others) if key in turn), usual)
    texts = (TEXT_KEYS[speaker], *(text for text in TEXT_KEYS.values() if text in turn))
    return speaker, texts[0] if texts[0] in turn else texts[-1]


def begins_turns(text: str) -> bool:
    """Return whether a text begins like a JSON list of objects, and names a speaker: other lists may be answers."""
    return re.match(r"\s*\[\s*\{", text) is not None and _SPEAKER.search(text) is not None


def read_turn(turn: Any, at: int, usual: str = "role") -> Turn:
    """Parse turn number ``at``, whose speaker is usually under ``usual``; raise RowError."""
    if not isinstance(turn, Mapping):
        raise RowError(f"turn {at} is {json_type(turn)}, not an object")
    role_key, key = keys_of(turn, usual)
    speaker = turn.get(role_key)
    role = role_of(speaker, role_key)
    if role is None:
        raise RowError(
            f"turn {at} has the unknown {role_key} {quoted(speaker)}; known: {', '.join(SPEAKERS[role_key])}"
        )
    try:
        return _parse_turn(turn, role, role_key, key)
    except RowError as error:
        raise RowError(f"turn {at}: {error}") from None


def _parse_turn(turn: Mapping[str, Any], role: Role, role_key: str, key: str) -> Turn:
    template: dict[str, Any] = dict(turn)
    form: dict[str, Any] = {}
    not_carried: list[str] = []
    calls: tuple[ToolCall, ...] = ()
    if turn[role_key].strip().lower() in _CALLERS:
        calls, form["said"] = _calls_in_text(turn.get(key), key)
        template[key], content = None, ""
    else:
        calls = _calls_in_fields(turn, template, form)
        content = _read_content(turn, key, template, calls=bool(calls))
    thoughts = _read_reasoning(turn, template, form)
    weight = _read_weight(turn)
    if role != "assistant":
        if calls:
            raise RowError(f"a {role}'s turn calls a tool, which only an assistant does")
        not_carried += _assistant_only_fields(turn, thoughts)
        thoughts, weight = "", 1.0
    not_carried += [
        f"the field {quoted(name)} in messages" for name in _unknown_fields(turn, role_key, key)
    ]
    message = Message(
        role,
        content,
        reasoning=thoughts,
        tool_calls=calls,
        name=_first_text(turn, ("name",)),
        call_id=_first_text(turn, _IDS),
        weight=weight,
    )
    return Turn(message, template, form, tuple(not_carried))


def _unknown_fields(turn: Mapping[str, Any], role_key: str, key: str) -> Iterator[str]:
    known = {
        role_key, key, "name", "tool_calls", "function_call", *_THOUGHTS, *_WEIGHTS, *_FLAGS, *_MASKS, *_IDS, *_METADATA,
    }  # fmt: skip
    return (name for name, value in turn.items() if name not in known and has_value(value))


def has_value(value: Any) -> bool:
    """Return whether a cell has a value: not null, not false, no empty text, list or object."""
    return value is not None and value is not False and value not in ("", [], {})


def _first_text(turn: Mapping[str, Any], names: Sequence[str]) -> str:
    value = next((turn[name] for name in names if turn.get(name) not in (None, "")), None)
    return "" if value is None else as_text(value, names[0])


def _assistant_only_fields(turn: Mapping[str, Any], thoughts: str) -> Iterator[str]:
    """Yield the fields of the turn that only an assistant's turn may have."""
    if thoughts:
        yield "reasoning of a turn that is not an assistant's"
    for name in _FLAGS:
        if turn.get(name):
            yield f"{quoted(name)} in a turn that is not an assistant's"


# --- text and thoughts -------------------------------------------------------------------------------------------


def _read_content(
    turn: Mapping[str, Any], key: str, template: dict[str, Any], *, calls: bool
) -> str:
    value = turn.get(key)
    if value is None and calls:
        return ""
    if isinstance(value, list):
        part = _only_part(value, key)
        template[key] = [{**value[0], "text": None}]
        return part
    text = as_text(value, key)
    if text and isinstance(value, str):
        template[key] = None
    return text


def _only_part(parts: Sequence[Any], key: str) -> str:
    kinds = [part.get("type") if isinstance(part, Mapping) else json_type(part) for part in parts]
    if kinds != ["text"]:
        named = ", ".join(map(str, kinds)) or "nothing"
        raise RowError(
            f"the field {quoted(key)} is a list of parts ({named}); only text is read: one part of the type text, or a string"
        )
    return as_text(parts[0].get("text"), "text")


def _read_reasoning(turn: Mapping[str, Any], template: dict[str, Any], form: dict[str, Any]) -> str:
    present = [name for name in _THOUGHTS if turn.get(name) not in (None, "")]
    texts = {as_text(turn[name], name) for name in present}
    if len(texts) > 1:
        raise RowError(
            f"the fields {' and '.join(map(quoted, present))} contain different reasoning"
        )
    if present:
        form["thoughts"] = present
        template.update(dict.fromkeys(present))
    return next(iter(texts), "")


# --- tool calls --------------------------------------------------------------------------------------------------


def _calls_in_fields(
    turn: Mapping[str, Any], template: dict[str, Any], form: dict[str, Any]
) -> tuple[ToolCall, ...]:
    cell = turn.get("tool_calls")
    legacy = turn.get("function_call")
    if has_value(cell) and has_value(legacy):
        raise RowError("it has both tool_calls and function_call")
    if has_value(legacy):
        call, template["function_call"] = _parse_call(legacy, "function_call")
        return (call,)
    if not has_value(cell):
        return ()
    value = load_cell(cell, "tool_calls") if isinstance(cell, str) else cell
    if not isinstance(value, list):
        raise RowError(f"the field 'tool_calls' is {json_type(value)}, not a list")
    read = [_parse_call(each, "tool_calls") for each in value]
    template["tool_calls"] = [skeleton for _, skeleton in read]
    if isinstance(cell, str):
        form["calls"] = json_style(cell, value)
    return tuple(call for call, _ in read)


def _parse_call(value: Any, where: str) -> tuple[ToolCall, dict[str, Any]]:
    """Return a call and its object without the call's contents: text arguments become None, others ``{}``."""
    if not isinstance(value, Mapping):
        raise RowError(f"the field {quoted(where)} contains {json_type(value)}, not a call")
    if value.get("type") not in (None, "function"):
        raise RowError(
            f"the field {quoted(where)} contains a call of the type {quoted(value['type'])}; known: function"
        )
    inner = value.get("function")
    body = inner if isinstance(inner, Mapping) else value
    name, arguments = body.get("name"), body.get("arguments")
    if not isinstance(name, str) or not name:
        raise RowError(f"the field {quoted(where)} contains a call without a name")
    text = _arguments_text(arguments, name)
    empty = {**body, "name": None}
    if arguments is not None:
        empty["arguments"] = None if isinstance(arguments, str) else {}
    skeleton = {**value, "function": empty} if body is inner else empty
    number = value.get("id")
    if number not in (None, ""):
        skeleton["id"] = None
    try:
        call = ToolCall(name, text, "" if number is None else as_text(number, "id"))
    except ValueError:
        # The text was read as an object, so it has too many levels.
        raise RowError(
            f"the arguments of the call of {quoted(name)} have more than 100 levels"
        ) from None
    return call, skeleton


def _arguments_text(value: Any, name: str) -> str:
    if value is None:
        return "{}"
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise RowError(
            f"the arguments of the call of {quoted(name)} have more than 100 levels"
        ) from None
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise RowError(
        f"the arguments of the call of {quoted(name)} are not a JSON object: {quoted(text[:60])}"
    )


def _calls_in_text(value: Any, key: str) -> tuple[tuple[ToolCall, ...], dict[str, Any]]:
    """Return the calls in a turn whose text is JSON: an object or a list of objects."""
    parsed = load_cell(value, key) if isinstance(value, str) else value
    several = isinstance(parsed, list)
    read = [_parse_call(each, key) for each in (parsed if several else [parsed])]
    if not read:
        raise RowError(f"the field {quoted(key)} contains no call")
    form: dict[str, Any] = {"calls": [skeleton for _, skeleton in read], "several": several}
    if isinstance(value, str):
        form["style"] = json_style(value, parsed)
    return tuple(call for call, _ in read), form


# --- weights -----------------------------------------------------------------------------------------------------


def _read_weight(turn: Mapping[str, Any]) -> float:
    """Return the weight of a turn in the loss, by default 1; raise RowError if two fields differ."""
    weights: dict[str, float] = {}
    for name in (*_WEIGHTS, *_FLAGS, *_MASKS):
        value = turn.get(name)
        if value is None:
            continue
        number = float(value) if isinstance(value, bool) or is_number(value) else math.nan
        if not 0 <= number < math.inf:
            raise RowError(
                f"the field {quoted(name)} is {quoted(value)}; give true, false or a number from 0 up"
            )
        weights[name] = float(number == 0) if name in _MASKS else number
    if len(set(weights.values())) > 1:
        raise RowError(f"the fields {' and '.join(map(quoted, weights))} have different weights")
    return next(iter(weights.values()), 1.0)


# --- and back ----------------------------------------------------------------------------------------------------


def fill_turn(
    template: Mapping[str, Any], message: Message, form: Mapping[str, Any], usual: str = "role"
) -> dict[str, Any]:
    """Return the original turn with the message's contents; remove fields that the message no longer has."""
    turn = dict(template)
    role_key, key = keys_of(template, usual)
    if "said" in form:
        turn[key] = _calls_to_text(message, form["said"])
        if not message.tool_calls:
            turn[role_key] = _SPEAKER_NAMES[role_key]["assistant"]
    else:
        _fill_content(turn, message, key)
        _fill_calls(turn, message, form)
    for name in form.get("thoughts", ()):
        if message.reasoning:
            turn[name] = message.reasoning
        else:
            del turn[name]
    return turn


def _fill_content(turn: dict[str, Any], message: Message, key: str) -> None:
    value = turn.get(key)
    if isinstance(value, list):
        turn[key] = [{**value[0], "text": message.content}]
        return
    if not message.content and (value is not None or message.tool_calls):
        return
    if value is None or as_text(value, key) != message.content:
        turn[key] = message.content


def _fill_calls(turn: dict[str, Any], message: Message, form: Mapping[str, Any]) -> None:
    if not message.tool_calls:
        for name in ("tool_calls", "function_call"):
            if has_value(turn.get(name)):
                del turn[name]
        return
    if has_value(turn.get("function_call")):
        turn["function_call"] = _restore_call(turn["function_call"], message.tool_calls[0])
        return
    calls = _restore_calls(turn["tool_calls"], message.tool_calls)
    turn["tool_calls"] = dump_cell(calls, form["calls"]) if "calls" in form else calls


def _calls_to_text(message: Message, form: Mapping[str, Any]) -> Any:
    if not message.tool_calls:
        return message.content
    calls = _restore_calls(form["calls"], message.tool_calls)
    value = calls if form["several"] else calls[0]
    return dump_cell(value, form["style"]) if "style" in form else value


def _restore_calls(
    skeletons: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall]
) -> list[dict[str, Any]]:
    return [_restore_call(empty, call) for empty, call in zip(skeletons, calls, strict=True)]


def _restore_call(skeleton: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
    inner = skeleton.get("function")
    nested = isinstance(inner, Mapping)
    body = dict(inner if isinstance(inner, Mapping) else skeleton)
    body["name"] = call.name
    if "arguments" in body:
        body["arguments"] = call.arguments if body["arguments"] is None else call.parsed()
    whole = {**skeleton, "function": body} if nested else body
    if "id" in whole and call.id:
        whole["id"] = call.id
    return whole


def new_turn(message: Message, role_key: str, key: str) -> dict[str, Any]:
    """Return a turn for a message that was not read from a row."""
    turn: dict[str, Any] = {role_key: _SPEAKER_NAMES[role_key][message.role], key: message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.name:
        turn["name"] = message.name
    if message.call_id:
        turn["tool_call_id"] = message.call_id
    if message.weight != 1.0:
        turn["weight"] = message.weight
    return turn


# --- tools -------------------------------------------------------------------------------------------------------


def read_tools(value: Any, name: str) -> tuple[Mapping[str, Any], ...]:
    """Return the tools of a row as ``{"type": "function", "function": {...}}``; the cell may be JSON text.

    Raises:
        RowError: the cell contains anything else.
    """
    if isinstance(value, str):
        value = load_cell(value, name) if value.strip() else []
    if not has_value(value):
        return ()
    if not isinstance(value, list):
        raise RowError(f"the field {quoted(name)} is {json_type(value)}, not a list of tools")
    return tuple(_parse_tool(each, name) for each in value)


def _parse_tool(value: Any, name: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = load_cell(value, name)
    inner = value.get("function") if isinstance(value, Mapping) else None
    body = inner if isinstance(inner, Mapping) else value
    if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
        raise RowError(f"the field {quoted(name)} contains a tool without a name")
    return value if body is inner else {"type": "function", "function": dict(body)}
