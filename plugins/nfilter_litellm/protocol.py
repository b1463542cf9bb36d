"""OpenAI's chat completions: what is sent, and what is read in a reply. Both transports share it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nfilter import Completion, Failure, Message, Request
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import (
    described,
    empty,
    from_status,
    off_schema,
    one_line,
    refused,
    unfinished,
    without_logprobs,
)
from nfilter_litellm.limits import Name

# Why an answer ended, as servers write it; in another word it has not ended as it should.
_ENDINGS = {
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
_SEEDS = 2**31
_ROOM = 2048  # tokens in which most thoughts and their answers end
_HUGE = 2**53  # no count and no log-probability is as large


def limit_of(request: Request, config: LiteLLMConfig) -> int:
    """How many tokens a request lets be generated."""
    return config.max_tokens or request.sampling.max_tokens


def fields(
    request: Request, config: LiteLLMConfig, *, logprobs: bool, limit: Name = "max_tokens"
) -> dict[str, Any]:
    """The fields of a request but for the model's name; ``limit`` is the name of the one that bounds the answer.

    A greedy request has no seed, as no answer depends on it.
    """
    sampling = request.sampling
    asked: dict[str, Any] = {
        "messages": [_sent(turn) for turn in request.messages],
        limit: limit_of(request, config),
        "temperature": sampling.temperature,
    }
    if sampling.temperature > 0:
        asked["seed"] = (sampling.seed + request.draw * 0x9E3779B1) % _SEEDS
        if sampling.top_p < 1:
            asked["top_p"] = sampling.top_p
    if sampling.stop:
        asked["stop"] = list(sampling.stop)
    if logprobs and request.logprobs:
        asked["logprobs"] = True
    if request.tools:
        asked["tools"] = [dict(tool) for tool in request.tools]
    return asked


def _sent(turn: Message) -> dict[str, Any]:
    """A turn as OpenAI's chat format writes it. Thoughts of earlier turns are no field of it: servers refuse them."""
    sent: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        sent["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]  # fmt: skip
    if turn.name:
        sent["name"] = turn.name
    if turn.call_id:
        sent["tool_call_id"] = turn.call_id
    return sent


def read(reply: Any, *, logprobs: bool, stop: Sequence[str] = (), limit: int = 0) -> Completion:
    """The completion in a reply with status 200.

    The text ends before the first of ``stop``, also where the server leaves it in. Log-probabilities are those that the
    server lists; whether the end token is among them is the server's habit. Thoughts without an answer, within ``limit``
    tokens, are a completion that failed: it has its counts and its thoughts.

    Raises:
        CallError: for a refusal, an empty answer, a reply of another form, or one without the logprobs asked for.
    """
    try:
        return _read(reply, logprobs, stop, limit)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What a server can make up has no end; it is this call's matter, and not the run's.
        raise off_schema(f"reading it ends in {type(error).__name__}") from None


def _read(reply: Any, logprobs: bool, stop: Sequence[str], limit: int) -> Completion:
    if not isinstance(reply, Mapping):
        raise off_schema("no JSON object")
    choices = reply.get("choices")
    if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
        if isinstance(reply.get("error"), Mapping):
            raise from_status(_status(reply["error"].get("code")), _text_of_error(reply))
        raise off_schema("it has no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise off_schema("its choice has no message")
    ended = _ended(choice)
    # litellm moves what it does not know by name.
    moved = message.get("provider_specific_fields")
    refusal = message.get("refusal") or (isinstance(moved, Mapping) and moved.get("refusal"))
    if refusal:
        raise refused(f"the model refused: {one_line(str(refusal))}")
    if ended == "filter":
        raise refused("the provider's content filter stopped the answer")
    whole = _text(message.get("content"))
    text = whole[: min((whole.find(one) for one in stop if one and one in whole), default=None)]
    usage = reply.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    prompt, made = (_whole(counts.get(key)) for key in ("prompt_tokens", "completion_tokens"))
    ending: Literal["stop", "length"] = "length" if ended == "length" and text == whole else "stop"
    reasoning = _reasoning(message)
    thought = reasoning is not None or _thought(counts)
    if not message.get("tool_calls") and (
        (thought and not whole.strip()) or (not whole and ending == "length")
    ):
        failure = _silent(ended, max(made, limit), thought=thought)
        return Completion("", "failed", None, prompt, made, failure, reasoning=reasoning)
    if not text and ending == "stop":
        raise empty("the answer is empty")
    values = _logprobs(choice.get("logprobs")) if logprobs else None
    if logprobs and not values and whole:
        raise without_logprobs()
    return Completion(text, ending, values, prompt, made, reasoning=reasoning)


def _ended(choice: Mapping[str, Any]) -> str:
    """``stop``, ``length`` or ``filter``; a server that gives no reason has come to the end.

    Raises:
        CallError: where an error stands in the choice, or for a reason that is none of those.
    """
    error = choice.get("error")
    if error:
        code = error.get("code") if isinstance(error, Mapping) else None
        told = _text_of_error({"error": error}) if isinstance(error, Mapping) else str(error)
        message, _ = described(told)
        raise unfinished(f"{code if isinstance(code, int) else ''} {message}".strip())
    # litellm writes stop for what it does not know.
    own = choice.get("provider_specific_fields")
    native = own.get("native_finish_reason") if isinstance(own, Mapping) else None
    reason = native or choice.get("finish_reason")
    ended = _ENDINGS.get(reason.lower()) if isinstance(reason, str) else None
    if ended is None and reason:
        raise unfinished(f"finish_reason is {one_line(str(reason))!r}")
    return ended or "stop"


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    raise off_schema("the content of its message is no text")


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """The thoughts that a server gives in a field of their own, under either of its names."""
    fields = (message.get(name) for name in ("reasoning_content", "reasoning"))
    return next((value for value in fields if isinstance(value, str) and value.strip()), None)


def _thought(counts: Mapping[str, Any]) -> bool:
    """Whether tokens are counted as thoughts that the server does not show."""
    details = counts.get("completion_tokens_details")
    return isinstance(details, Mapping) and _whole(details.get("reasoning_tokens")) > 0


def _silent(ended: str, used: int, *, thought: bool) -> Failure:
    """A reply in which no answer stands, though ``used`` tokens were granted or made."""
    enough = max(_ROOM, 4 * used)
    cut = ended == "length"
    what = "thought and gave no answer" if thought else "gave no word of an answer"
    return Failure(
        "too_long" if cut else "parse",
        f"the model {what}{' before it was cut off at max_tokens' if cut else ''}; write models: {{NAME: {{..., "
        f"max_tokens: {enough}}}}}, or, where the server takes it, body: {{reasoning_effort: low}}",
    )


def _logprobs(value: Any) -> tuple[float, ...] | None:
    """The list of today's form, ``content``, or of the older one, ``token_logprobs``."""
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
    if not all(isinstance(number, int | float) and abs(number) < _HUGE for number in listed):
        raise off_schema("a log-probability in it is no number")
    return tuple(min(float(number), 0.0) for number in listed)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < _HUGE else 0


def _status(code: Any) -> int:
    """Some gateways wrap an error in a reply with status 200; its code is then the status."""
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _text_of_error(reply: Mapping[str, Any]) -> str:
    return json.dumps({"error": reply["error"]}, default=str)
