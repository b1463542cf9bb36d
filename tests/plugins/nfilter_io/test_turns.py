"""Tool calls, results, reasoning and weights of turns: read, reported if unsupported, and restored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter import Message, Row, ToolCall, Unreadable
from nfilter_io.config import JsonLinesConfig
from nfilter_io.sources import JsonLines

ASK = {"role": "user", "content": "Rome?"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}  # fmt: skip
CALLS = (ToolCall("weather", '{"city":"Rome"}', "c1"),)
OBJECT = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}
SPACED = ToolCall("weather", '{"city": "Rome", "days": 2}')


def assistant(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "ok", **more}


# name: the turns in a file, and their messages
TALKS: dict[str, tuple[list[dict[str, Any]], list[Message]]] = {
    "openai": (
        [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "20 C"},
            {"role": "assistant", "content": "20", "reasoning_content": "it says 20", "weight": 1},
        ],
        [
            Message("user", "Rome?"),
            Message("assistant", "", tool_calls=CALLS),
            Message("tool", "20 C", name="weather", call_id="c1"),
            Message("assistant", "20", reasoning="it says 20"),
        ],
    ),
    "call-last": (
        [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=CALLS)],
    ),
    "call-last-null": (
        [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=CALLS)],
    ),
    "call-last-bare": (
        [ASK, {"role": "assistant", "tool_calls": [CALL, CALL]}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=CALLS * 2)],
    ),
    "call-and-text": (
        [ASK, assistant(tool_calls=[{"function": OBJECT}], thinking="hm")],
        [Message("user", "Rome?"), Message("assistant", "ok", reasoning="hm", tool_calls=(SPACED,))],
    ),
    "call-flat": (
        [ASK, {"role": "assistant", "content": "", "tool_calls": [OBJECT]}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=(SPACED,))],
    ),
    "calls-as-text": (
        [ASK, {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=CALLS)],
    ),
    "function-call": (
        [ASK, {"role": "assistant", "content": None, "function_call": OBJECT}, {"role": "function", "name": "weather", "content": "5"},
         assistant()],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=(SPACED,)), Message("tool", "5", name="weather"),
         Message("assistant", "ok")],
    ),
    "function-call-last": (
        [ASK, {"role": "assistant", "content": None, "function_call": OBJECT}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=(SPACED,))],
    ),
    "said-calls": (
        [ASK, {"role": "tool_call", "content": json.dumps(OBJECT)}, {"role": "tool_response", "content": "5"}, assistant()],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=(SPACED,)), Message("tool", "5"), Message("assistant", "ok")],
    ),
    "said-calls-last": (
        [ASK, {"role": "function_call", "content": json.dumps([OBJECT], separators=(",", ":"))}],
        [Message("user", "Rome?"), Message("assistant", "", tool_calls=(SPACED,))],
    ),
    "developer": (
        [{"role": "developer", "content": "be brief"}, ASK, assistant()],
        [Message("system", "be brief"), Message("user", "Rome?"), Message("assistant", "ok")],
    ),
    "part": (
        [{"role": "user", "content": [{"type": "text", "text": "Rome?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "ok"}]}],
        [Message("user", "Rome?"), Message("assistant", "ok")],
    ),
    "weights": (
        [ASK, assistant(weight=0), ASK, assistant(train=False), ASK, assistant(loss=True), ASK, assistant(masked=True),
         ASK, assistant(loss_weight=0.25)],
        [m for weight in (0.0, 0.0, 1.0, 0.0, 0.25) for m in (Message("user", "Rome?"), Message("assistant", "ok", weight=weight))],
    ),
}  # fmt: skip


def only(source: Any) -> Row:
    (row,) = source.read()
    assert isinstance(row, Row), row
    return row


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_turns_are_read_and_restored(make: Any, name: str, kind: str) -> None:
    turns, expected = TALKS[name]
    row = {"id": "a", "messages": turns, "tools": [TOOL]}
    source = make(kind, [row])
    read = only(source)
    assert read.sample.messages == tuple(expected)
    assert read.sample.tools == (TOOL,)
    assert read.not_carried == ()
    assert source.restore(read.sample) == row


@pytest.mark.parametrize("name", TALKS)
def test_meta_does_not_contain_the_response(make: Any, name: str) -> None:
    turns, expected = TALKS[name]
    sample = only(make("jsonl", [{"messages": turns}])).sample
    last = json.dumps(sample.meta["messages"][len(expected) - 1])
    answer = expected[-1]
    for text in (answer.content, answer.reasoning, *(call.name for call in answer.tool_calls)):
        assert not text or text not in last


@pytest.mark.parametrize("name", TALKS)
def test_a_new_response_removes_reasoning_and_calls(make: Any, name: str) -> None:
    turns, expected = TALKS[name]
    source = make("jsonl", [{"id": "a", "messages": turns}])
    sample = only(source).sample.relabel("fresh", "better")
    (again,) = make("jsonl", [source.restore(sample)]).read()
    answer = Message("assistant", "fresh", weight=expected[-1].weight)
    assert again.sample.messages == (*expected[:-1], answer)


def test_sharegpt_calls_and_results(make: Any) -> None:
    turns = [
        {"from": "human", "value": "Rome?"},
        {"from": "function_call", "value": json.dumps(OBJECT)},
        {"from": "observation", "value": "5"},
        {"from": "gpt", "value": "five", "weight": 0.5},
    ]
    row = {"id": "a", "conversations": turns, "tools": json.dumps([OBJECT])}
    source = make("jsonl", [row])
    read = only(source)
    assert read.sample.messages == (
        Message("user", "Rome?"),
        Message("assistant", "", tool_calls=(SPACED,)),
        Message("tool", "5"),
        Message("assistant", "five", weight=0.5),
    )
    assert read.sample.tools == ({"type": "function", "function": OBJECT},)
    assert source.restore(read.sample) == row


def test_tools_and_a_system_prompt_of_late_rows_are_read(make: Any) -> None:
    plain = {"messages": [ASK, assistant()]}
    late = {"messages": [ASK, assistant()], "functions": [TOOL["function"]], "system": "be brief"}
    source = make("jsonl", [*[{**plain, "id": str(n)} for n in range(250)], {**late, "id": "z"}])
    rows = list(source.read())
    sample = rows[-1].sample
    assert sample.messages[0] == Message("system", "be brief")
    assert sample.tools == (TOOL,)
    assert source.restore(sample) == {**late, "id": "z"}


def test_a_generated_sample_is_written_completely(make: Any) -> None:
    source = make("jsonl", [{"id": "a", "messages": [ASK, assistant()], "tools": [TOOL]}])
    sample = only(source).sample
    expected = TALKS["openai"][1]
    made = type(sample)("made", tuple(expected), tools=sample.tools)
    again = only(make("jsonl", [source.restore(made)])).sample
    assert (again.messages, again.tools) == (made.messages, made.tools)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (assistant(weight="no"), "'weight' is 'no'; give true, false or a number from 0 up"),
        (assistant(weight=-1), "'weight' is -1"),
        (assistant(weight=0, train=True), "'weight' and 'train' have different weights"),
        (assistant(reasoning="a", thinking="b"), "'reasoning' and 'thinking' contain different reasoning"),
        (assistant(reasoning=["a"]), "'reasoning' is a list, not text"),
        (assistant(tool_calls=[{"function": {"name": "f", "arguments": "{'a': 1}"}}]), "arguments of the call of 'f' are not a JSON object"),
        (assistant(tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}]), "not a JSON object"),
        (assistant(tool_calls=[{"function": {"name": "f", "arguments": '{"a":' + "[" * 700 + "]" * 700 + "}"}}]), "the call of 'f' have more than 100 levels"),
        (assistant(tool_calls=[{"function": {"arguments": "{}"}}]), "a call without a name"),
        (assistant(tool_calls=[{"type": "custom", "custom": {"name": "f"}}]), "a call of the type 'custom'"),
        (assistant(tool_calls="x"), "text that is not JSON"),
        (assistant(tool_calls={"name": "f"}), "'tool_calls' is an object, not a list"),
        (assistant(tool_calls=[CALL], function_call=OBJECT), "both tool_calls and function_call"),
        ({"role": "assistant", "content": None, "refusal": "I cannot"}, "'content' is missing"),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, "a list of parts (text, image_url)"),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}] * 2}, "a list of parts (text, text)"),
        ({"role": "function_call", "content": "call it"}, "text that is not JSON"),
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
    ],
)  # fmt: skip
def test_unsupported_turns_are_unreadable(make: Any, turn: dict[str, Any], reason: str) -> None:
    good, bad = make("jsonl", [{"messages": [ASK, assistant()]}, {"messages": [ASK, turn]}]).read()
    assert isinstance(good, Row)
    assert isinstance(bad, Unreadable)
    assert bad.error.startswith("turn 2")
    assert reason in bad.error


def test_a_user_cannot_call_a_tool(make: Any) -> None:
    rows = make("jsonl", [{"messages": [ASK, assistant()]}, {"messages": [{**ASK, "tool_calls": [CALL]}, assistant()]}]).read()  # fmt: skip
    assert "which only an assistant does" in list(rows)[1].error


@pytest.mark.parametrize("tools", ["x", [5], [{"type": "function"}], {"name": "f"}])
def test_rows_with_invalid_tools_are_unreadable(make: Any, tools: Any) -> None:
    good = {"messages": [ASK, assistant()], "tools": [TOOL]}
    first, second = make("jsonl", [good, {**good, "tools": tools}]).read()
    assert isinstance(first, Row)
    assert "'tools'" in second.error


@pytest.mark.parametrize(
    ("row", "not_carried"),
    [
        ({"messages": [ASK, assistant(refusal="no")]}, ["the field 'refusal' in messages"]),
        ({"messages": [{**ASK, "images": ["a.png"]}, assistant()]}, ["the field 'images' in messages"]),
        ({"messages": [ASK, assistant(train_detail=[{"begin_offset": 0}])]}, ["the field 'train_detail' in messages"]),
        ({"messages": [{**ASK, "train": True}, assistant()]}, ["'train' in a turn that is not an assistant's"]),
        ({"messages": [{**ASK, "train": False, "weight": 0}, assistant()]}, []),
        ({"messages": [{**ASK, "reasoning": "x"}, assistant()]}, ["reasoning of a turn that is not an assistant's"]),
        ({"messages": [ASK, assistant(id="x", timestamp=5, model="m", refusal=None, audio="")]}, []),
        ({"messages": [ASK, assistant()], "images": ["a.png"]}, ["the column 'images'"]),
        ({"messages": [ASK, assistant()], "images": [], "documents": None}, []),
        ({"messages": [ASK, assistant()], "weight": 0.5}, ["the column 'weight' (`weight: weight` in the source reads it)"]),
        ({"messages": [ASK, assistant()], "weight": 1}, []),
        ({"messages": [{"role": "system", "content": "a"}, ASK, assistant()], "system": "b"}, ["the column 'system' beside a system turn"]),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, ["the column 'history'"]),
        ({"prompt": "a", "response": "b", "tools": [TOOL]}, ["the column 'tools'"]),
        ({"question": "a", "answer": "b", "weight": "70 kg"}, []),
        ({"question": "a A) x B) y", "answer": "B", "options": "A) x B) y"}, ["the column 'options'"]),
        ({"question": "a", "answer": "B", "options": ["x", "y"], "passage": "p"}, []),
        ({"question": "a", "answer": "B", "options": ["x", "y"], "passage": {"p": 1}}, ["the column 'passage', which is neither a text nor a list of texts"]),
        ({"text": "a", "label": "b", "passage": "p"}, ["the column 'passage'"]),
        ({"question": "a", "answer": "b", "reasoning": "c"}, ["the column 'reasoning'"]),
        ({"prompt": "a", "completion": "b", "label": True}, []),
        ({"prompt": "a", "completion": "b", "label": False}, ["the column 'label', which is false: in unpaired preferences (KTO) a bad response"]),
        ({"prompt": "a", "completion": "b", "context": ""}, []),
    ],
)  # fmt: skip
def test_parts_that_are_not_carried_are_reported(
    make: Any, row: dict[str, Any], not_carried: list[str]
) -> None:
    assert list(only(make("jsonl", [row])).not_carried) == not_carried


PASSAGES = [
    ("A cat sat.", "A cat sat."),
    (["A cat", "sat."], "A cat\nsat."),
    ({"contexts": ["A cat", "sat."], "labels": ["METHODS", "RESULTS"]}, "A cat\nsat."),
]


@pytest.mark.parametrize(("cell", "text"), PASSAGES)
@pytest.mark.parametrize("name", ["context", "passage", "article"])
@pytest.mark.parametrize("options", [{}, {"options": ["a cat", "a dog"]}])
def test_what_a_question_is_about_is_read(
    name: str, cell: Any, text: str, options: dict[str, Any], make: Any
) -> None:
    row = {"id": "1", "question": "who?", name: cell, "answer": "a cat", **options}
    source = make("jsonl", [row])
    read = only(source)
    assert read.sample.query == f"who?\n\n{text}" + "\nA. a cat\nB. a dog" * bool(options)
    assert read.not_carried == ()
    assert source.restore(read.sample) == row
    new = "B" if options else "a dog"
    assert source.restore(read.sample.relabel(new, "a test")) == {**row, "answer": "a dog"}


def test_a_passage_under_another_name_is_read_as_the_remedy_says(make: Any) -> None:
    row = {"question": "who?", "contexts": ["A cat sat."], "answer": "a cat"}
    (said,) = only(make("jsonl", [row])).not_carried
    assert said == "the column 'contexts' (`columns: {context: contexts}` reads it)"
    read = only(make("jsonl", [row], columns={"context": "contexts"}))
    assert (read.sample.query, read.not_carried) == ("who?\n\nA cat sat.", ())


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt":"q","response":"a","response":"b"}\n{"prompt":"q","response":"a"}\n')
    source = JsonLines(JsonLinesConfig(path="data.jsonl"), tmp_path)
    first, second = source.read()
    assert first.error == "the line has an object with the same key twice"
    assert second.sample.response == "a"
