"""Tools and schemas of requests in OpenAI's chat format, and the tool calls of replies."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nfilter import JSON, Completion, ContractError, Request, ToolCall
from nfilter_litellm.config import check_field
from nfilter_litellm.failures import CallError, one_line

_CHOICES = ("none", "required")
_FORM_WORDS = ("response_format", "json_schema", "guided_json", "structured output")


def asked_fields(request: Request, transport: str) -> dict[str, Any]:
    """Return the fields for the tools, the schema and the further fields of a request.

    Raises:
        ContractError: ``extra`` sets a field that the request or nfilter sets.
    """
    asked: dict[str, Any] = {}
    if request.tools:
        asked["tools"] = [dict(tool) for tool in request.tools]
        if request.tool_choice in _CHOICES:
            asked["tool_choice"] = request.tool_choice
        elif request.tool_choice != "auto":
            asked["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    if request.response_schema is not None:
        schema = request.response_schema
        form = {"name": "answer", "schema": schema, "strict": is_strict(schema)}
        asked["response_format"] = {"type": "json_schema", "json_schema": form}
    for name, value in request.extra.items():
        try:
            check_field(name, transport)
        except ValueError as error:
            raise ContractError(f"Request.extra: {error}") from None
        asked[name] = value
    return asked


def is_strict(schema: JSON) -> bool:
    """Return whether OpenAI accepts the schema with ``strict: true``: no object has optional or unknown properties."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if schema.get("type") == "object" or properties is not None:
            named = set(properties) if isinstance(properties, Mapping) else set()
            required = schema.get("required", ())
            required = required if isinstance(required, Sequence) else ()
            if schema.get("additionalProperties") is not False or named != set(required):
                return False
        return all(is_strict(each) for each in schema.values())
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return all(is_strict(each) for each in schema)
    return True


def calls_in(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Return the tool calls of a reply's message, in the current form or the older one, ``function_call``.

    Raises:
        ValueError: the calls are no list, or one has no name, or arguments that are not a JSON object of at most 100 levels.
    """
    listed = message.get("tool_calls")
    if not listed and isinstance(message.get("function_call"), Mapping):
        listed = [{"function": message["function_call"]}]
    if not listed:
        return ()
    if not isinstance(listed, Sequence):
        raise ValueError("its tool calls are not a list")  # noqa: TRY004 (as for every reply that cannot be read)
    return tuple(_call(each) for each in listed)


def _call(value: Any) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise ValueError("a tool call in it has no name")
    given = function.get("arguments")
    # Some servers write nothing for a call without arguments.
    text = "{}" if given in (None, "") else given
    try:
        if not isinstance(text, str):
            text = json.dumps(text)
        return ToolCall(name, text, str(value.get("id") or ""))
    except (ValueError, RecursionError):
        start = one_line(str(text))[:60]
        raise ValueError(
            f"the arguments of its call of {one_line(name)[:60]!r} are not a JSON object of at most 100 levels; they begin with {start!r}"
        ) from None


class SchemaField:
    """The field of the schema, until the server rejects it: later requests are sent without it. For one event loop."""

    def __init__(self) -> None:
        self._taken = True

    async def call(
        self, request: Request, attempt: Callable[[Request], Awaitable[Completion]]
    ) -> Completion:
        """Return the result of ``attempt``, after at most two attempts.

        Raises:
            CallError: as ``attempt``.
        """
        if request.response_schema is None:
            return await attempt(request)
        plain = replace(request, response_schema=None)
        if not self._taken:
            return await attempt(plain)
        try:
            return await attempt(request)
        except CallError as fault:
            if not rejects_schema(fault):
                raise
        answer = await attempt(plain)
        self._taken = False
        return answer


def rejects_schema(fault: CallError) -> bool:
    """Return whether the server rejects the field of the schema. Such a rejection is not billed."""
    text = fault.detail.lower()
    return fault.status in (400, 422) and any(word in text for word in _FORM_WORDS)
