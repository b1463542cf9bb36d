"""Requests and answers as JSON."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from nfilter import Completion, Failure, Message, Request, Sampling, ToolCall

REQUESTS = [
    Request((Message("user", "2+3?"),)),
    Request(
        (
            Message("system", "terse\ud800", weight=0.5),
            Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 2}', "c1"),)),
            Message("tool", "5", name="add", call_id="c1"),
        ),
        Sampling(7, 0.5, 0.9, 2**62, ("a", "\n")),
        logprobs=True,
        sample_id="x",
        draw=3,
        tools=(MappingProxyType({"type": "function", "function": {"name": "add"}}),),
        tool_choice="required",
        response_schema={"type": "object"},
        extra={"reasoning_effort": "low"},
    ),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_is_the_same_behind_json(request_: Request) -> None:
    again = Request.unpacked(json.loads(json.dumps(request_.packed())))
    assert again == request_
    assert hash(again.sampling) == hash(request_.sampling)


@pytest.mark.parametrize(
    "completion",
    [
        Completion("5", "stop", (-0.1, -1e-9), 4, 2, reasoning="2 and 3"),
        Completion("", "failed", failure=Failure("too_long", "the prompt has 409 tokens")),
        Completion("", reasoning="", tool_calls=(ToolCall("add", '{"a": 2}', "c1"),)),
    ],
)
def test_a_completion_is_the_same_behind_json(completion: Completion) -> None:
    assert Completion.unpacked(json.loads(json.dumps(completion.packed()))) == completion
