"""Tool calls in texts of local models, in the forms that published chat templates teach.

A form is read only if the request has tools. Everything else is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from nfilter import Completion, Failure, Request, ToolCall

# Hermes, Qwen, SmolLM and others: one JSON object between two marks.
_MARKED: Final = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
# Llama 3 and Mistral: the whole text, after a mark that decoding may have removed.
_PREFIX: Final = re.compile(r"\s*(?:\[TOOL_CALLS\]|<\|python_tag\|>)?\s*")
_NAMES: Final = frozenset({"name", "arguments", "parameters", "type", "id"})


def with_tool_calls(done: Completion, request: Request) -> Completion:
    """Return a completion with the tool calls of its text moved to ``tool_calls``.

    A call between marks that is not readable is the failure ``parse``; a text without marks that is not a call is an answer.
    """
    if done.failure is not None or not request.tools or request.tool_choice == "none":
        return done
    marked = list(_MARKED.finditer(done.text))
    if not marked:
        calls = _unmarked(done.text)
        return replace(done, text="", tool_calls=calls) if calls else done
    read = [_call(_loaded(found[1])) for found in marked]
    if None in read:
        start = marked[read.index(None)][1][:60]
        why = "was cut off at max_tokens" if done.finish == "length" else "is not one JSON object"
        failure = Failure("parse", f"a tool call {why}; it begins with {start!r}")
        return replace(done, finish="failed", logprobs=None, failure=failure)
    text = _MARKED.sub("", done.text).strip()
    return replace(done, text=text, tool_calls=tuple(each for each in read if each is not None))


def _unmarked(text: str) -> tuple[ToolCall, ...]:
    """Return the calls that a text consists of; empty if it is anything else."""
    value = _loaded(text[_PREFIX.match(text).end() :])  # type: ignore[union-attr]  # it matches every text
    calls = [_call(each) for each in (value if isinstance(value, list) else [value])]
    return tuple(each for each in calls if each is not None) if None not in calls else ()


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, Mapping) or set(value) - _NAMES:
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _loaded(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        return None
    try:
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False), str(value.get("id") or ""))
    except (ValueError, RecursionError):  # too many levels
        return None


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
