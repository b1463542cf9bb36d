"""Conversations with all that their turns hold, in the forms that other trainers read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nfilter import JSON, Message, Sample


def conversation(sample: Sample, *, flags: bool = False) -> dict[str, JSON]:
    """A row of ``messages``, and of ``tools`` where there are any, as OpenAI's chat format has them.

    A weight is written where it is not 1; with ``flags`` every assistant's turn says by ``train`` whether it counts.
    """
    turns: list[JSON] = [turn(message, flags=flags) for message in sample.messages]
    row: dict[str, JSON] = {"messages": turns}
    return {**row, "tools": [dict(tool) for tool in sample.tools]} if sample.tools else row


def turn(message: Message, *, flags: bool = False) -> dict[str, JSON]:
    """One message as chat templates take it: a call's arguments are an object."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.parsed())},
            }
            for call in message.tool_calls
        ]
    if message.name:
        out["name"] = message.name
    if message.call_id:
        out["tool_call_id"] = message.call_id
    if flags and message.role == "assistant":
        out["train"] = message.weight != 0
    elif message.weight != 1.0:
        out["weight"] = message.weight
    return out


def sharegpt(sample: Sample) -> Mapping[str, JSON] | str:
    """A row for LLaMA-Factory's sharegpt format, or why it has no place there.

    A call stands as JSON in a turn of its own role; the trainer takes a user's turn or a result, and an assistant's turn
    or a call, in turns.
    """
    system = sample.messages[0].content if sample.messages[0].role == "system" else ""
    turns = sample.messages[1:] if system else sample.messages
    for at, message in enumerate(turns):
        if (message.role == "assistant") != (at % 2 == 1) or message.role == "system":
            return "two turns of one side in a row, such as the results of two calls"
        if message.tool_calls and message.content.strip():
            return "a text beside a tool call"
    rows: list[JSON] = [_said(message) for message in turns]
    out: dict[str, JSON] = {"messages": rows, "system": system}
    listed = [tool["function"] for tool in sample.tools]
    return {**out, "tools": json.dumps(listed, ensure_ascii=False) if listed else ""}


def _said(message: Message) -> dict[str, JSON]:
    role, content = _ROLES[message.role], message.content
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": call.parsed()} for call in message.tool_calls]
        role, content = "function_call", json.dumps(calls, ensure_ascii=False)
    if message.reasoning:
        content = f"<think>\n{message.reasoning}\n</think>\n\n{content}"
    return {"role": role, "content": content}


_ROLES = {"user": "user", "assistant": "assistant", "tool": "observation", "system": "system"}
