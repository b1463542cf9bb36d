"""Requests and answers as JSON."""

from __future__ import annotations

import json

from nfilter import Completion, Failure, Message, Request, Sampling, ToolCall


def test_a_request_survives_json() -> None:
    request = Request(
        (Message("user", "2 + 2?"), Message("assistant", "", tool_calls=(ToolCall("add", "{}"),))),
        Sampling(7, 0.5, 0.9, 3, ("\n",)),
        logprobs=True,
        sample_id="a",
        draw=2,
        tools=({"type": "function"},),
        tool_choice="required",
        response_schema={"type": "object"},
        extra={"reasoning_effort": "low"},
    )
    assert Request.unpacked(json.loads(json.dumps(request.packed()))) == request
    plain = Request((Message("user", "2 + 2?"),))
    assert Request.unpacked(json.loads(json.dumps(plain.packed()))) == plain


def test_an_answer_survives_json_without_its_cost() -> None:
    answer = Completion(
        "4",
        "length",
        (-0.5, -0.25),
        3,
        2,
        reasoning="",
        tool_calls=(ToolCall("add", '{"a": 2}', "c1"),),
    )
    assert Completion.unpacked(json.loads(json.dumps(answer.packed()))) == answer
    failed = Completion("", "failed", failure=Failure("timeout", "after 9 s"), usd=0.5, cached=True)
    assert Completion.unpacked(json.loads(json.dumps(failed.packed()))) == Completion(
        "", "failed", failure=Failure("timeout", "after 9 s")
    )
