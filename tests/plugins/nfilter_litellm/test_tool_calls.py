"""Tools, schemas and further fields of requests on both transports, tool calls of replies, and streams that stay open."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from nfilter import Completion, ContractError, Message, OpenStreams, Request, Streams, ToolCall
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.budgeted_transport import cost_bound
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import CallError
from nfilter_litellm.protocol import read
from nfilter_litellm.tool_calls import is_strict
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes.",
        "parameters": {"type": "object"},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"right": {"type": "boolean"}},
    "required": ["right"],
    "additionalProperties": False,
}
ASK = Request((Message("user", "Is 17 + 25 = 43?"),), tools=(TOOL,))
CALL = ToolCall("calculator", '{"expression": "17 + 25"}', "call_1")
both = pytest.mark.parametrize("transport", ["aiohttp", "litellm"])


def calling(messages: Sequence[Mapping[str, Any]]) -> str | Completion:
    """A model that calls the calculator first, and then says what it answered."""
    results = [each["content"] for each in messages if each["role"] == "tool"]
    return f"It is {results[-1]}." if results else Completion("", tool_calls=(CALL,))


@both
def test_a_call_and_its_result_go_to_the_server_and_back(
    backend: Callable[..., LiteLLMBackend], transport: str
) -> None:
    with ModelServer(Script(answer=calling)) as server:
        model = backend(server.url, transport=transport)
        (first,) = model.generate([ASK])
        assert (first.text, first.tool_calls, first.failure) == ("", (CALL,), None)
        turns = (
            *ASK.messages,
            Message("assistant", "", tool_calls=first.tool_calls),
            Message("tool", "42", name="calculator", call_id="call_1"),
        )
        (second,) = model.generate([replace(ASK, messages=turns)])
    assert (second.text, second.tool_calls) == ("It is 42.", ())
    assert server.asked[0]["tools"] == [TOOL]
    assert "tool_choice" not in server.asked[0]
    sent = server.asked[-1]["messages"]
    (call,) = sent[1]["tool_calls"]
    assert call["id"] == "call_1"
    assert call["function"] == {"name": "calculator", "arguments": CALL.arguments}
    assert (sent[2]["role"], sent[2]["tool_call_id"], sent[2]["content"]) == (
        "tool",
        "call_1",
        "42",
    )


@both
@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("none", "none"),
        ("required", "required"),
        ("calculator", {"type": "function", "function": {"name": "calculator"}}),
    ],
)
def test_the_choice_of_a_tool(
    backend: Callable[..., LiteLLMBackend], transport: str, choice: str, sent: Any
) -> None:
    with ModelServer() as server:
        backend(server.url, transport=transport).generate([replace(ASK, tool_choice=choice)])
    assert server.asked[0]["tool_choice"] == sent


@both
def test_a_schema_and_further_fields_are_sent(
    backend: Callable[..., LiteLLMBackend], transport: str
) -> None:
    with ModelServer() as server:
        asked = Request(ASK.messages, response_schema=SCHEMA, extra={"reasoning_effort": "low"})
        backend(server.url, transport=transport).generate([asked])
    form = server.asked[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}
    assert server.asked[0]["reasoning_effort"] == "low"


@both
def test_a_server_that_refuses_schemas_is_asked_without_and_remembered(
    backend: Callable[..., LiteLLMBackend], transport: str
) -> None:
    with ModelServer(Script(schemas=False)) as server:
        model = backend(server.url, transport=transport, concurrency=1)
        asked = [Request((Message("user", f"{n}?"),), response_schema=SCHEMA) for n in range(4)]
        assert [each.failure for each in model.generate(asked)] == [None] * 4
    assert server.plan.counts == {"no_schema": 1, "ok": 4}


@pytest.mark.parametrize(
    ("name", "transport", "message"),
    [
        (
            "max_tokens",
            "aiohttp",
            "'max_tokens' cannot be set here, because it determines the cost",
        ),
        ("messages", "aiohttp", "'messages' cannot be set here"),
        (
            "temperature",
            "aiohttp",
            "'temperature' is set by the request itself; remove it from extra",
        ),
        ("api_version", "litellm", "'api_version' is not a field that can be sent through litellm"),
    ],
)
def test_extra_cannot_set_what_nfilter_sets(
    backend: Callable[..., LiteLLMBackend], name: str, transport: str, message: str
) -> None:
    with ModelServer() as server:
        model = backend(server.url, transport=transport)
        with pytest.raises(ContractError, match=f"Request.extra: {message}"):
            model.generate([replace(ASK, extra={name: "x"})])
    assert not server.asked


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA, True),
        ({**SCHEMA, "required": []}, False),
        ({**SCHEMA, "additionalProperties": True}, False),
        ({key: SCHEMA[key] for key in ("type", "properties", "required")}, False),
        ({"type": "array", "items": SCHEMA}, True),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"anyOf": [SCHEMA, {**SCHEMA, "required": []}]}, False),
    ],
)
def test_strict_is_asked_where_openai_accepts_it(schema: Any, strict: bool) -> None:
    assert is_strict(schema) is strict


def reply_with(**message: Any) -> dict[str, Any]:
    choice = {"message": {"content": None, **message}, "finish_reason": "tool_calls"}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def a_call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_calls_as_servers_write_them() -> None:
    done = read(
        reply_with(tool_calls=[a_call("sql", {"q": 1}), a_call("now", "")]),
        logprobs=False,
        tools=True,
    )
    assert done.tool_calls == (ToolCall("sql", '{"q": 1}', "c"), ToolCall("now", "{}", "c"))
    assert (done.finish, done.failure, done.prompt_tokens) == ("stop", None, 5)
    old = read(
        reply_with(function_call={"name": "sql", "arguments": "{}"}), logprobs=False, tools=True
    )
    assert old.tool_calls == (ToolCall("sql", "{}"),)
    with_text = read(
        reply_with(content="I look it up.", tool_calls=[a_call("sql", "{}")]),
        logprobs=False,
        tools=True,
    )
    assert (with_text.text, len(with_text.tool_calls)) == ("I look it up.", 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            a_call("sql", "{'q': 1}"),
            "the arguments of its call of 'sql' are not a JSON object of at most 100 levels; they begin with \"{'q': 1}\"",
        ),
        (a_call("sql", "[1]"), "the arguments of its call of 'sql' are not a JSON object"),
        (a_call("", "{}"), "a tool call in it has no name"),
        ("x", "a tool call in it has no name"),
        *(
            (a_call("sql", odd), "the arguments of its call of 'sql' are not a JSON object")
            for odd in ([], 0, False, '{"a": ' + "[" * 700 + "]" * 700 + "}")
        ),
    ],
)
def test_a_call_that_cannot_be_read_is_a_failure_with_its_counts(call: Any, says: str) -> None:
    done = read(reply_with(tool_calls=[call]), logprobs=False, tools=True)
    assert done.failure is not None
    assert (done.failure.kind, done.prompt_tokens, done.completion_tokens) == ("parse", 5, 3)
    assert says in done.failure.detail


def test_calls_that_are_no_list_are_not_left_out() -> None:
    reply = reply_with(tool_calls=a_call("sql", "{}"), content="")
    reply["choices"][0]["finish_reason"] = "length"
    done = read(reply, logprobs=False, tools=True)
    assert done.failure is not None
    assert done.failure.detail == "the reply cannot be read: its tool calls are not a list"


@pytest.mark.parametrize("finish", ["tool_calls", "length"])
def test_a_call_that_nobody_asked_for_is_no_answer(finish: str) -> None:
    reply = reply_with(tool_calls=[a_call("sql", "{}")])
    reply["choices"][0]["finish_reason"] = finish
    with pytest.raises(CallError, match="the answer is empty"):
        read(reply, logprobs=False)


def test_tools_and_schemas_count_in_the_bound_of_a_cost() -> None:
    from nfilter import Price

    price = Price(1.0, 0.0)
    plain, tools = replace(ASK, tools=()), ASK
    both_of_them = replace(ASK, response_schema=SCHEMA)
    bounds = [cost_bound(each, price, 1) for each in (plain, tools, both_of_them)]
    assert bounds[1] - bounds[0] >= len(json.dumps(TOOL))
    assert bounds[2] - bounds[1] >= len(json.dumps(SCHEMA))


def test_a_follow_up_starts_while_another_call_still_runs(
    backend: Callable[..., LiteLLMBackend],
) -> None:
    """The slow call is answered only after the fast conversation has had three answers."""
    three = threading.Event()

    def answer(messages: Sequence[Mapping[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        if text == "slow":
            return "done"
        if text == "fast 2":
            three.set()
        return text

    class Waits(ModelServer):
        async def _answer(self, request: Any, asked: dict[str, Any]) -> Any:
            import asyncio

            if asked["messages"][-1]["content"] == "slow":
                while not three.is_set():  # noqa: ASYNC110 (set by another thread)
                    await asyncio.sleep(0.005)
            return await super()._answer(request, asked)

    def ask(text: str) -> Request:
        return Request((Message("user", text),))

    came: list[str] = []
    waiting = [[ask("fast 1")], [ask("fast 2")]]
    with Waits(Script(answer=answer)) as server:
        stream = backend(server.url).open_stream(
            [ask("slow"), ask("fast 0")], lambda: waiting.pop(0) if waiting else []
        )
        numbers = []
        for each in stream:
            if each is not None:
                numbers.append(each[0])
                came.append(each[1].text)
    assert came == ["fast 0", "fast 1", "fast 2", "done"]
    assert numbers == [1, 2, 3, 0]


def test_an_open_stream_ends_with_the_error_of_the_server(
    backend: Callable[..., LiteLLMBackend],
) -> None:
    from nfilter import ModelError

    with ModelServer(Script(key="right")) as server:
        stream = backend(server.url).open_stream([ASK], list)
        with pytest.raises(ModelError, match="Incorrect API key"):
            list(stream)


def test_an_open_stream_can_be_left(backend: Callable[..., LiteLLMBackend]) -> None:
    with ModelServer() as server:
        model = backend(server.url)
        stream = model.open_stream([ASK], lambda: [ASK])
        number, answer = next(filter(None, stream))  # None stands for waiting
        assert (number, answer.failure) == (0, None)
        stream.close()  # type: ignore[attr-defined]
        assert model.generate([ASK])[0].failure is None


def test_batches_have_no_open_stream() -> None:
    config = {"model": "m", "api_base": "http://localhost/v1"}
    able = LiteLLMBackend.abilities(LiteLLMConfig.model_validate(config)).capabilities
    batch = LiteLLMBackend.abilities(
        LiteLLMConfig.model_validate({**config, "batch": True})
    ).capabilities
    assert {Streams, OpenStreams} <= able
    assert Streams in batch
    assert OpenStreams not in batch


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_ends_an_open_stream_after_the_calls_that_run(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Also where a call waits for another attempt, which is then given up."""
    from pathlib import Path

    from nfilter import Interrupt, Site
    from nfilter_litellm.retry import Retry

    class Ends(Interrupt):
        stop = False

        @property
        def requested(self) -> bool:
            return self.stop

    monkeypatch.setattr(
        "nfilter_litellm.backend.Retry", lambda attempts: Retry(attempts, patience=2.0, base=0.002)
    )
    interrupt = Ends()
    faults = {"error": 0.5} if fails else {}
    with ModelServer(Script(latency=0.01, faults=faults, seed=3)) as server:
        config = LiteLLMConfig(model="m", api_base=server.url, concurrency=4)
        model = LiteLLMBackend(config, Site(Path(), interrupt=interrupt))
        count = 8

        def more() -> list[Request]:
            nonlocal count
            count += 1
            return [Request((Message("user", f"{count}?"),))]

        came = []
        first = [Request((Message("user", f"{n}?"),)) for n in range(8)]
        for each in model.open_stream(first, more):
            if each is not None:
                came.append(each)
                interrupt.stop = len(came) >= 10
        model.close()
    # Without the interrupt it would go on for ever; at most the calls that ran then were answered.
    assert 10 <= len(came) <= 18
    assert sum(server.plan.counts.values()) < 60
