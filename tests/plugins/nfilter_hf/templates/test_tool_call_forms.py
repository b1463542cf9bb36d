"""Tool calls of local models, in the forms that their chat templates teach; everything else stays text."""

from __future__ import annotations

from typing import Any

import pytest

from nfilter import Completion, Message, Request, ToolCall
from nfilter_hf.templates.tool_calls import with_tool_calls

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASK = Request((Message("user", "2 + 3?"),), tools=(TOOL,))
ADD = ToolCall("add", '{"a": 2}')


@pytest.mark.parametrize(
    ("text", "calls", "left"),
    [
        # Hermes, Qwen 2.5 and 3, SmolLM
        ('<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>', (ADD,), ""),
        ('<tool_call>{"name": "add", "arguments": {"a": 2}}', (ADD,), ""),
        ('Let me add.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>', (ADD,), "Let me add."),
        ('<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>\n<tool_call>{"name": "sql", "arguments": {}}</tool_call>',
         (ADD, ToolCall("sql", "{}")), ""),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 2}"}</tool_call>', (ADD,), ""),
        # Llama 3, with and without its mark
        ('{"name": "add", "parameters": {"a": 2}}', (ADD,), ""),
        ('<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": 2}}', (ADD,), ""),
        # Mistral, whose mark is a special token
        ('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2}, "id": "abcdefghi"}]', (ToolCall("add", '{"a": 2}', "abcdefghi"),), ""),
        ('[{"name": "add", "arguments": {"a": 2}}, {"name": "sql", "arguments": {}}]', (ADD, ToolCall("sql", "{}")), ""),
    ],
)  # fmt: skip
def test_a_call_is_read(text: str, calls: Any, left: str) -> None:
    done = with_tool_calls(Completion(text, logprobs=(-0.5,)), ASK)
    assert (done.tool_calls, done.text, done.failure) == (calls, left, None)
    assert done.logprobs == (-0.5,)


@pytest.mark.parametrize(
    "text",
    [
        "It is 5.",
        '{"answer": 5}',
        '{"name": "Rome"}',
        '{"name": "add", "arguments": {"a": 2}, "answer": 5}',
        'The call is {"name": "add", "arguments": {"a": 2}}',
        '[{"name": "add", "arguments": {"a": 2}}, 5]',
        "[]",
        "[" * 100_000,
        "",
    ],
    ids=lambda text: text[:20],
)
def test_anything_else_is_an_answer(text: str) -> None:
    assert with_tool_calls(Completion(text), ASK) == Completion(text)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "add", "arguments": {"a": 2}</tool_call>',
        '<tool_call>{"name": "add"}</tool_call>',
        "<tool_call>add(2)</tool_call>",
        '<tool_call>{"name": "add", "arguments": [2]}</tool_call>',
    ],
)
def test_a_marked_call_that_cannot_be_read_is_a_failure(text: str) -> None:
    done = with_tool_calls(Completion(text), ASK)
    assert done.failure is not None
    assert done.failure.kind == "parse"
    assert done.failure.detail.startswith("a tool call is not one JSON object; it begins with")
    cut = with_tool_calls(Completion(text, "length"), ASK)
    assert cut.failure is not None
    assert cut.failure.detail.startswith("a tool call was cut off at max_tokens")


def test_without_tools_there_are_no_calls() -> None:
    text = '{"name": "add", "parameters": {"a": 2}}'
    for request in (
        Request(ASK.messages),
        Request(ASK.messages, tools=(TOOL,), tool_choice="none"),
    ):
        assert with_tool_calls(Completion(text), request) == Completion(text)
