"""Conversations in OpenAI's chat format and in LLaMA-Factory's sharegpt format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nfilter import JSON, Message, Sample


def conversation(sample: Sample, *, flags: bool = False) -> dict[str, JSON]:
    """Return a row of ``messages`` and optional ``tools`` in OpenAI's chat format.

    Weights other than 1 are written as ``weight``; with ``flags`` each assistant turn has a boolean ``train`` instead.
    """
    turns: list[JSON] = [turn(message, flags=flags) for message in sample.messages]
    return with_tools({"messages": turns}, sample)


def with_tools(row: dict[str, JSON], sample: Sample) -> dict[str, JSON]:
    """Return a row with the tools of its sample, if it has any."""
    return {**row, "tools": [dict(tool) for tool in sample.tools]} if sample.tools else row


def turn(message: Message, *, flags: bool = False) -> dict[str, JSON]:
    """Return a message as chat templates expect it: the arguments of a tool call are an object."""
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


def weighted(sample: Sample) -> dict[str, JSON]:
    """Return a row for ms-swift. The weight of an assistant turn is multiplied by that of its row."""
    turns: list[JSON] = []
    for message in sample.messages:
        out = {key: value for key, value in turn(message).items() if key != "weight"}
        if message.role == "assistant":
            weight = message.weight * sample.weight
            if weight == 0:
                out["loss"] = False
            elif weight != 1:
                out["loss_scale"] = weight
        turns.append(out)
    return with_tools({"messages": turns}, sample)


def sharegpt(sample: Sample) -> Mapping[str, JSON] | str:
    """Return a row in LLaMA-Factory's sharegpt format, or the reason that the format does not support it.

    A tool call becomes a ``function_call`` turn with JSON. The format requires that user turns or tool results
    alternate with assistant turns or tool calls.
    """
    system = sample.messages[0].content if sample.messages[0].role == "system" else ""
    turns = sample.messages[1:] if system else sample.messages
    for at, message in enumerate(turns):
        if (message.role == "assistant") != (at % 2 == 1) or message.role == "system":
            return "two consecutive turns of the same side, such as the results of two tool calls"
        if message.tool_calls and message.content.strip():
            return "a turn with both text and a tool call"
    rows: list[JSON] = [_sharegpt_turn(message) for message in turns]
    out: dict[str, JSON] = {"messages": rows, "system": system}
    functions = [tool["function"] for tool in sample.tools]
    return {**out, "tools": json.dumps(functions, ensure_ascii=False) if functions else ""}


def _sharegpt_turn(message: Message) -> dict[str, JSON]:
    role, content = _ROLES[message.role], message.content
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": call.parsed()} for call in message.tool_calls]
        role, content = "function_call", json.dumps(calls, ensure_ascii=False)
    if message.reasoning:
        content = f"<think>\n{message.reasoning}\n</think>\n\n{content}"
    return {"role": role, "content": content}


_ROLES = {"user": "user", "assistant": "assistant", "tool": "observation", "system": "system"}
