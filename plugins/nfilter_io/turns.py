"""One turn of a conversation: from a row's object to a message, and back into the object as it came.

Read are OpenAI's chat format, ShareGPT, and the flags by which trainers leave a turn out of the loss. A field that is
known to no reader here is named, so that nothing that may change the meaning of a turn is lost in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nfilter import Message, Role, ToolCall
from nfilter_io.cells import (
    RowError,
    as_text,
    dump_cell,
    is_number,
    json_style,
    kind_of,
    load_cell,
    shown,
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
    },
}
"""The role of each speaker, by the key that names it."""

_WRITTEN: Final = {
    "role": {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
    "from": {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"},
}
_CALLERS: Final = frozenset({"function_call", "tool_call"})
_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
_WEIGHTS: Final = ("weight", "loss_weight")
_FLAGS: Final = ("train", "training", "trainable", "loss")
_MASKS: Final = ("masked",)
_IDS: Final = ("tool_call_id", "call_id")
# What says when, where and by whom a turn was written, and no more.
_REMARKS: Final = frozenset(
    {
        "id", "uuid", "message_id", "parent_id", "index", "turn", "position", "timestamp", "created", "created_at", "date",
        "time", "model", "lang", "language", "hash", "source", "tokens", "token_count", "num_tokens", "length", "cost",
        "usage", "finish_reason", "stop_reason", "rating", "score", "type",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn, read. ``bare`` is its object without what the message says, ``form`` how that was written.

    ``lost`` names what it holds and the message does not.
    """

    message: Message
    bare: Mapping[str, Any]
    form: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


def read_turn(turn: Any, at: int, who: str, what: str) -> Turn:
    """Turn number ``at``, whose speaker stands under ``who`` and whose text under ``what``. Raises RowError."""
    if not isinstance(turn, Mapping):
        raise RowError(f"turn {at} is {kind_of(turn)}, not an object")
    speaker = turn.get(who)
    role = SPEAKERS[who].get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowError(
            f"turn {at} has the unknown {who} {shown(speaker)}; known: {', '.join(SPEAKERS[who])}"
        )
    try:
        return _read(turn, role, who, what)
    except RowError as error:
        raise RowError(f"turn {at}: {error}") from None


def _read(turn: Mapping[str, Any], role: Role, who: str, what: str) -> Turn:
    bare: dict[str, Any] = dict(turn)
    form: dict[str, Any] = {}
    lost: list[str] = []
    calls: tuple[ToolCall, ...] = ()
    if turn[who] in _CALLERS:
        calls, form["said"] = _said_calls(turn.get(what), what)
        bare[what], content = None, ""
    else:
        calls = _held_calls(turn, bare, form)
        content = _content(turn, what, bare, calls=bool(calls))
    thoughts = _thoughts(turn, bare, form)
    weight = _weight(turn)
    if role != "assistant":
        if calls:
            raise RowError(f"a {role}'s turn calls a tool, which only an assistant does")
        lost += _idle(turn, thoughts)
        thoughts, weight = "", 1.0
    lost += [f"the field {shown(name)} in messages" for name in _unknown(turn, who, what)]
    message = Message(
        role,
        content,
        reasoning=thoughts,
        tool_calls=calls,
        name=_short(turn, ("name",)),
        call_id=_short(turn, _IDS),
        weight=weight,
    )
    return Turn(message, bare, form, tuple(lost))


def _unknown(turn: Mapping[str, Any], who: str, what: str) -> Iterator[str]:
    known = {
        who, what, "name", "tool_calls", "function_call", *_THOUGHTS, *_WEIGHTS, *_FLAGS, *_MASKS, *_IDS, *_REMARKS,
    }  # fmt: skip
    return (name for name, value in turn.items() if name not in known and filled(value))


def filled(value: Any) -> bool:
    """Whether a cell holds anything: no null, no empty text, list or object, and not false."""
    return value is not None and value is not False and value not in ("", [], {})


def _short(turn: Mapping[str, Any], names: Sequence[str]) -> str:
    value = next((turn[name] for name in names if turn.get(name) not in (None, "")), None)
    return "" if value is None else as_text(value, names[0])


def _idle(turn: Mapping[str, Any], thoughts: str) -> Iterator[str]:
    """What only an assistant's turn can have."""
    if thoughts:
        yield "reasoning of a turn that is not an assistant's"
    for name in _FLAGS:
        if turn.get(name):
            yield f"{shown(name)} in a turn that is not an assistant's"


# --- text and thoughts -------------------------------------------------------------------------------------------


def _content(turn: Mapping[str, Any], what: str, bare: dict[str, Any], *, calls: bool) -> str:
    value = turn.get(what)
    if value is None and calls:
        return ""
    if isinstance(value, list):
        part = _only_part(value, what)
        bare[what] = [{**value[0], "text": None}]
        return part
    text = as_text(value, what)
    if text and isinstance(value, str):
        bare[what] = None
    return text


def _only_part(parts: Sequence[Any], what: str) -> str:
    kinds = [part.get("type") if isinstance(part, Mapping) else kind_of(part) for part in parts]
    if kinds != ["text"]:
        named = ", ".join(map(str, kinds)) or "nothing"
        raise RowError(
            f"the field {shown(what)} is a list of parts ({named}); only text is read: one part of the type text, or a string"
        )
    return as_text(parts[0].get("text"), "text")


def _thoughts(turn: Mapping[str, Any], bare: dict[str, Any], form: dict[str, Any]) -> str:
    held = [name for name in _THOUGHTS if turn.get(name) not in (None, "")]
    texts = {as_text(turn[name], name) for name in held}
    if len(texts) > 1:
        raise RowError(f"the fields {' and '.join(map(shown, held))} hold different thoughts")
    if held:
        form["thoughts"] = held
        bare.update(dict.fromkeys(held))
    return next(iter(texts), "")


# --- tool calls --------------------------------------------------------------------------------------------------


def _held_calls(
    turn: Mapping[str, Any], bare: dict[str, Any], form: dict[str, Any]
) -> tuple[ToolCall, ...]:
    given = turn.get("tool_calls")
    old = turn.get("function_call")
    if filled(given) and filled(old):
        raise RowError("it has both tool_calls and function_call")
    if filled(old):
        call, bare["function_call"] = _call(old, "function_call")
        return (call,)
    if not filled(given):
        return ()
    value = load_cell(given, "tool_calls") if isinstance(given, str) else given
    if not isinstance(value, list):
        raise RowError(f"the field 'tool_calls' is {kind_of(value)}, not a list")
    read = [_call(each, "tool_calls") for each in value]
    bare["tool_calls"] = [skeleton for _, skeleton in read]
    if isinstance(given, str):
        form["calls"] = json_style(given, value)
    return tuple(call for call, _ in read)


def _call(value: Any, where: str) -> tuple[ToolCall, dict[str, Any]]:
    """A call, and its object without what the call says: arguments that are text are None there, others ``{}``."""
    if not isinstance(value, Mapping):
        raise RowError(f"the field {shown(where)} holds {kind_of(value)}, not a call")
    if value.get("type") not in (None, "function"):
        raise RowError(
            f"the field {shown(where)} holds a call of the type {shown(value['type'])}; known: function"
        )
    inner = value.get("function")
    body = inner if isinstance(inner, Mapping) else value
    name, arguments = body.get("name"), body.get("arguments")
    if not isinstance(name, str) or not name:
        raise RowError(f"the field {shown(where)} holds a call without a name")
    text = _arguments(arguments, name)
    empty = {**body, "name": None}
    if arguments is not None:
        empty["arguments"] = None if isinstance(arguments, str) else {}
    skeleton = {**value, "function": empty} if body is inner else empty
    number = value.get("id")
    if number not in (None, ""):
        skeleton["id"] = None
    return ToolCall(name, text, "" if number is None else as_text(number, "id")), skeleton


def _arguments(value: Any, name: str) -> str:
    if value is None:
        return "{}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise RowError(
        f"the arguments of the call of {shown(name)} are not a JSON object: {shown(text[:60])}"
    )


def _said_calls(value: Any, what: str) -> tuple[tuple[ToolCall, ...], dict[str, Any]]:
    """The calls that stand as JSON in the text of a turn: an object, or a list of them."""
    given = load_cell(value, what) if isinstance(value, str) else value
    several = isinstance(given, list)
    read = [_call(each, what) for each in (given if several else [given])]
    if not read:
        raise RowError(f"the field {shown(what)} holds no call")
    form: dict[str, Any] = {"calls": [skeleton for _, skeleton in read], "several": several}
    if isinstance(value, str):
        form["style"] = json_style(value, given)
    return tuple(call for call, _ in read), form


# --- weights -----------------------------------------------------------------------------------------------------


def _weight(turn: Mapping[str, Any]) -> float:
    """The weight of a turn in the loss; 1 where nothing says so. Raises RowError where two fields differ."""
    found: dict[str, float] = {}
    for name in (*_WEIGHTS, *_FLAGS, *_MASKS):
        value = turn.get(name)
        if value is None:
            continue
        number = float(value) if isinstance(value, bool) or is_number(value) else math.nan
        if not 0 <= number < math.inf:
            raise RowError(
                f"the field {shown(name)} is {shown(value)}; give true, false or a number from 0 up"
            )
        found[name] = float(number == 0) if name in _MASKS else number
    if len(set(found.values())) > 1:
        raise RowError(f"the fields {' and '.join(map(shown, found))} give different weights")
    return next(iter(found.values()), 1.0)


# --- and back ----------------------------------------------------------------------------------------------------


def fill_turn(
    bare: Mapping[str, Any], message: Message, who: str, what: str, form: Mapping[str, Any]
) -> dict[str, Any]:
    """The turn as it came, with the message in place; of what the message has no longer, the field is gone."""
    turn = dict(bare)
    if "said" in form:
        turn[what] = _say_calls(message, form["said"])
        if not message.tool_calls:
            turn[who] = _WRITTEN[who]["assistant"]
    else:
        _fill_content(turn, message, what)
        _fill_calls(turn, message, form)
    for name in form.get("thoughts", ()):
        if message.reasoning:
            turn[name] = message.reasoning
        else:
            del turn[name]
    return turn


def _fill_content(turn: dict[str, Any], message: Message, what: str) -> None:
    value = turn.get(what)
    if isinstance(value, list):
        turn[what] = [{**value[0], "text": message.content}]
        return
    if not message.content and (value is not None or message.tool_calls):
        return
    if value is None or as_text(value, what) != message.content:
        turn[what] = message.content


def _fill_calls(turn: dict[str, Any], message: Message, form: Mapping[str, Any]) -> None:
    if not message.tool_calls:
        for name in ("tool_calls", "function_call"):
            if filled(turn.get(name)):
                del turn[name]
        return
    if filled(turn.get("function_call")):
        turn["function_call"] = _filled_call(turn["function_call"], message.tool_calls[0])
        return
    calls = _filled_calls(turn["tool_calls"], message.tool_calls)
    turn["tool_calls"] = dump_cell(calls, form["calls"]) if "calls" in form else calls


def _say_calls(message: Message, form: Mapping[str, Any]) -> Any:
    if not message.tool_calls:
        return message.content
    calls = _filled_calls(form["calls"], message.tool_calls)
    value = calls if form["several"] else calls[0]
    return dump_cell(value, form["style"]) if "style" in form else value


def _filled_calls(
    skeletons: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall]
) -> list[dict[str, Any]]:
    return [_filled_call(empty, call) for empty, call in zip(skeletons, calls, strict=True)]


def _filled_call(skeleton: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
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


def new_turn(message: Message, who: str, what: str) -> dict[str, Any]:
    """A turn for a message that came from no row."""
    turn: dict[str, Any] = {who: _WRITTEN[who][message.role], what: message.content}
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
    """The tools of a row, each as ``{"type": "function", "function": {...}}``; the cell may hold JSON as text.

    Raises RowError where they are something else.
    """
    if isinstance(value, str):
        value = load_cell(value, name) if value.strip() else []
    if not filled(value):
        return ()
    if not isinstance(value, list):
        raise RowError(f"the field {shown(name)} is {kind_of(value)}, not a list of tools")
    return tuple(_tool(each, name) for each in value)


def _tool(value: Any, name: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = load_cell(value, name)
    inner = value.get("function") if isinstance(value, Mapping) else None
    body = inner if isinstance(inner, Mapping) else value
    if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
        raise RowError(f"the field {shown(name)} holds a tool without a name")
    return value if body is inner else {"type": "function", "function": dict(body)}
