"""OpenAI's chat completions protocol, for both transports: build requests and parse replies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nfilter import Completion, ContractError, Failure, Message, Request
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import (
    CallError,
    empty,
    from_code,
    off_schema,
    one_line,
    parse_error_body,
    refused,
    unfinished,
    without_logprobs,
)
from nfilter_litellm.limit_field import LimitName
from nfilter_litellm.tool_calls import asked_fields, calls_in

# Finish reasons of servers; an answer with any other reason is incomplete.
_FINISH_REASONS = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "tool_calls", "function_call", "tool_use"),
        "stop",
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded", "continuation"),
        "length",
    ),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "refusal", "safety", "sensitive", "recitation", "blocklist", "prohibited_content",
         "spii", "language", "guardrail_intervened"),
        "filter",
    ),
}  # fmt: skip
_SEED_RANGE = 2**31
_MIN_SUGGESTED = 2048  # tokens that suffice for most reasoning and its answer
_MAX_START = 120  # characters of an unknown reply that are shown
_MAX_VALUE = 2**53  # above any valid count or log-probability


def limit_of(request: Request, config: LiteLLMConfig) -> int:
    """Return the maximum number of tokens that a request generates."""
    return config.max_tokens or request.sampling.max_tokens


def fields(
    request: Request,
    config: LiteLLMConfig,
    *,
    logprobs: bool,
    limit: LimitName = "max_tokens",
    transport: str = "aiohttp",
) -> dict[str, Any]:
    """Return the fields of a request except the model's name; ``limit`` is the name of the token limit field.

    A greedy request has no seed, because no answer depends on it.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "messages": [_to_openai(turn) for turn in request.messages],
        limit: limit_of(request, config),
        "temperature": sampling.temperature,
    }
    if sampling.temperature > 0:
        body["seed"] = (sampling.seed + request.draw * 0x9E3779B1) % _SEED_RANGE
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if logprobs and request.logprobs:
        body["logprobs"] = True
    asked = asked_fields(request, transport)
    taken = sorted(set(asked) & set(body))
    if taken:
        raise ContractError(
            f"Request.extra: {taken[0]!r} is set by the request itself; remove it from extra"
        )
    return body | asked


def _to_openai(turn: Message) -> dict[str, Any]:
    """Return a message in OpenAI's chat format, without reasoning, which servers reject."""
    out: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]  # fmt: skip
    if turn.name:
        out["name"] = turn.name
    if turn.call_id:
        out["tool_call_id"] = turn.call_id
    return out


def read(
    reply: Any, *, logprobs: bool, stop: Sequence[str] = (), limit: int = 0, tools: bool = False
) -> Completion:
    """Return the completion in a reply with status 200.

    The text ends before the first of ``stop``, even if the server includes it. Log-probabilities are those that the
    server lists; whether they include the end token depends on the server. Reasoning without an answer, within ``limit``
    tokens, is a failed completion with its counts and reasoning; so is a tool call that cannot be read. Tool calls are read if
    the request has ``tools``.

    Raises:
        CallError: a refusal, an empty answer, an invalid reply, or one without the requested log-probabilities.
    """
    try:
        return _parse(reply, logprobs, stop, limit, tools)
    except CallError as error:
        error.tokens = _tokens_of(reply)
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A server can send anything; an invalid reply fails this call, not the run.
        raise off_schema(f"parsing it raises {type(error).__name__}") from None


def _parse(reply: Any, logprobs: bool, stop: Sequence[str], limit: int, tools: bool) -> Completion:
    choice, message = _choice_of(reply)
    reason = _finish_reason(choice)
    # litellm moves fields that it does not know.
    moved = message.get("provider_specific_fields")
    refusal = message.get("refusal") or (isinstance(moved, Mapping) and moved.get("refusal"))
    if refusal:
        raise refused(f"the model refused: {one_line(str(refusal))}")
    if reason == "filter":
        raise refused("the provider's content filter stopped the answer")
    full, thought = _texts(message.get("content"))
    text = full[: min((full.find(one) for one in stop if one and one in full), default=None)]
    prompt, generated = _tokens_of(reply)
    finish: Literal["stop", "length"] = "length" if reason == "length" and text == full else "stop"
    reasoning = thought or _reasoning(message)
    reasoned = reasoning is not None or _has_reasoning_tokens(reply)
    calling = message.get("tool_calls") or message.get("function_call")
    if not calling and ((reasoned and not full.strip()) or (not full and finish == "length")):
        failure = _no_answer(reason, max(generated, limit), reasoned=reasoned)
        return Completion("", "failed", None, prompt, generated, failure, reasoning=reasoning)
    try:
        calls = calls_in(message) if tools else ()
    except ValueError as error:
        unreadable = Failure("parse", f"the reply cannot be read: {error}")
        return Completion(text, "failed", None, prompt, generated, unreadable, reasoning=reasoning)
    if not text and not calls:
        raise empty("the answer is empty")
    values = _logprobs(choice.get("logprobs")) if logprobs else None
    if logprobs and not values and full:
        raise without_logprobs()
    return Completion(
        text, finish, values, prompt, generated, reasoning=reasoning, tool_calls=calls
    )


def _choice_of(reply: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the first choice of a reply, and its message."""
    if not isinstance(reply, Mapping):
        raise off_schema("it is not a JSON object")
    choices = reply.get("choices")
    if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
        error = reply.get("error")
        if error:
            code = error.get("code") if isinstance(error, Mapping) else None
            raise from_code(code, _error_json(reply))
        raise off_schema(f"it has no choices; it begins with {_start(reply)!r}")
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise off_schema("its choice has no message")
    return choices[0], message


def _finish_reason(choice: Mapping[str, Any]) -> str:
    """Return ``stop``, ``length`` or ``filter``; a choice without a reason counts as ``stop``.

    Raises:
        CallError: the choice contains an error or another reason.
    """
    error = choice.get("error")
    if error:
        text = _error_json({"error": error}) if isinstance(error, Mapping) else str(error)
        message, code = parse_error_body(text, numbers=True)
        raise unfinished(f"{code} {message}".strip())
    # litellm replaces unknown reasons by stop.
    extra = choice.get("provider_specific_fields")
    native = extra.get("native_finish_reason") if isinstance(extra, Mapping) else None
    reason = native or choice.get("finish_reason")
    known = _FINISH_REASONS.get(reason.lower()) if isinstance(reason, str) else None
    if known is None and reason:
        raise unfinished(f"finish_reason is {one_line(str(reason))!r}")
    return known or "stop"


def _texts(content: Any) -> tuple[str, str | None]:
    """Return the text of a message's content, and the reasoning among its parts (Mistral, Databricks)."""
    if content is None:
        return "", None
    if isinstance(content, str):
        return content, None
    if not isinstance(content, Sequence):
        raise off_schema("its message's content is not text")
    parts = [part for part in content if isinstance(part, Mapping)]
    refusal = next((part["refusal"] for part in parts if part.get("refusal")), None)
    if refusal is not None:
        raise refused(f"the model refused: {one_line(str(refusal))}")
    text = "".join(_part(part.get("text")) for part in parts if _is_text(part))
    thoughts = (
        _part(part.get(name))
        for part in parts
        if not _is_text(part)
        for name in ("thinking", "text", "summary")
    )
    return text, "".join(thoughts).strip() or None


def _is_text(part: Mapping[str, Any]) -> bool:
    return not re.search("think|reason", str(part.get("type")))


def _part(value: Any) -> str:
    """Return a part's text, which may be a list of parts itself."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = "".join(
            each["text"]
            for each in value
            if isinstance(each, Mapping) and isinstance(each.get("text"), str)
        )
    return value if isinstance(value, str) else ""


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """Return the reasoning that a server sends in a separate field, under any of its names."""
    fields = (message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    return next((value for value in fields if isinstance(value, str) and value.strip()), None)


def _usage(reply: Any) -> Mapping[str, Any]:
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    return usage if isinstance(usage, Mapping) else {}


def _tokens_of(reply: Any) -> tuple[int, int]:
    """Return the tokens of the prompt and the tokens generated.

    Some providers bill reasoning that is in the total alone (xAI, Gemini), so what the total has beyond the prompt is
    generated.
    """
    counts = _usage(reply)
    prompt, generated, total = (
        _count(counts.get(f"{name}_tokens")) for name in ("prompt", "completion", "total")
    )
    return prompt, max(generated, total - prompt) if prompt and generated else generated


def _has_reasoning_tokens(reply: Any) -> bool:
    """Return whether reasoning tokens are counted, though the server hides them."""
    details = _usage(reply).get("completion_tokens_details")
    return isinstance(details, Mapping) and _count(details.get("reasoning_tokens")) > 0


def _no_answer(reason: str, used: int, *, reasoned: bool) -> Failure:
    """Return the failure of a reply without an answer, with a limit well above the ``used`` tokens as the remedy."""
    enough = max(_MIN_SUGGESTED, 4 * used)
    cut = reason == "length"
    what = "reasoned and gave no answer" if reasoned else "gave no answer"
    return Failure(
        "too_long" if cut else "parse",
        f"the model {what}{' before it was cut off at max_tokens' if cut else ''}; write models: {{NAME: {{..., "
        f"max_tokens: {enough}}}}}, or, if the server supports it, body: {{reasoning_effort: low}}",
    )


def _logprobs(value: Any) -> tuple[float, ...] | None:
    """Return the log-probabilities in the current format, ``content``, or the older one, ``token_logprobs``."""
    if not isinstance(value, Mapping):
        return None
    listed: Any = value.get("token_logprobs")
    if isinstance(value.get("content"), Sequence):
        listed = [
            entry.get("logprob") if isinstance(entry, Mapping) else None
            for entry in value["content"]
        ]
    if not isinstance(listed, Sequence):
        return None
    if not all(isinstance(number, int | float) and abs(number) < _MAX_VALUE for number in listed):
        # Another attempt would give the same.
        raise CallError(
            "parse",
            "a log-probability of the reply is not a number; if the server gives none for some tokens, set logprobs: false "
            "on the model",
        )
    return tuple(min(float(number), 0.0) for number in listed)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < _MAX_VALUE else 0


def _start(reply: Mapping[str, Any]) -> str:
    """Return the start of a reply, with the error that it may contain in a form of its own."""
    return one_line(json.dumps(reply, default=str))[:_MAX_START]


def _error_json(reply: Mapping[str, Any]) -> str:
    return json.dumps({"error": reply["error"]}, default=str)
