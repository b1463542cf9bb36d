"""A prompt and a completion as lists of turns, as TRL reads them: tools, several turns, weights, and unreadable rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfilter import Message, Row, Sample, SourceError, ToolCall, Unreadable
from nfilter.cli import entry

ASK = {"role": "user", "content": "Weather in Oslo?"}
CALL = {
    "role": "assistant", "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
}  # fmt: skip
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"}
SAY = {"role": "assistant", "content": "It rains."}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}  # fmt: skip


def only(source: Any) -> Sample:
    (row,) = source.read()
    assert isinstance(row, Row), row
    assert row.not_carried == ()
    return row.sample


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_conversation_with_tools_is_read_wherever_the_completion_begins(
    cut: int, make: Any
) -> None:
    turns = [ASK, CALL, RESULT, SAY]
    row = {"prompt": turns[:cut], "completion": turns[cut:], "tools": [TOOL]}
    source = make("jsonl", [row])
    sample = only(source)
    call = ToolCall("weather", '{"city": "Oslo"}', "c1")
    assert [replace(message, weight=1.0) for message in sample.messages] == [
        Message("user", "Weather in Oslo?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "rain", name="weather", call_id="c1"),
        Message("assistant", "It rains."),
    ]
    assert [dict(tool) for tool in sample.tools] == [TOOL]
    # An assistant's turns in the prompt are context.
    learned = [message.weight for message in sample.messages if message.role == "assistant"]
    assert learned == ([1.0, 1.0] if cut == 1 else [0.0, 1.0])
    assert source.restore(sample) == {"id": sample.id, **row}
    changed = dict(source.restore(sample.relabel("It snows.", "r")))
    assert changed["completion"] == [*turns[cut:3], {"role": "assistant", "content": "It snows."}]


def test_it_is_the_conversation_of_the_same_messages(make: Any) -> None:
    """The parts together are what `messages` is, but for the weights of the prompt."""
    turns = [{"role": "system", "content": "s"}, ASK, SAY, ASK, {"role": "assistant", "content": "Yes", "reasoning_content": "so"}]  # fmt: skip
    whole = only(make("jsonl", [{"messages": turns, "functions": [TOOL]}]))
    parts = only(make("jsonl", [{"prompt": turns[:4], "completion": turns[4:], "functions": [TOOL]}]))  # fmt: skip
    assert [replace(message, weight=1.0) for message in parts.messages] == list(whole.messages)
    assert parts.tools == whole.tools
    assert [message.weight for message in parts.messages] == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("indent", [None, 1])
def test_lists_that_are_json_text_are_restored(kind: str, indent: int | None, make: Any) -> None:
    """Indented ones on one line, with the same values."""
    row = {"prompt": json.dumps([ASK], indent=indent), "completion": json.dumps([SAY], indent=indent)}  # fmt: skip
    source = make(kind, [row])
    sample = only(source)
    assert (sample.query, sample.response) == ("Weather in Oslo?", "It rains.")
    on_one_line = {name: json.dumps(json.loads(cell)) for name, cell in row.items()}
    assert source.restore(sample) == {"id": sample.id, **on_one_line}
    changed = make(kind, [row]).restore(sample.relabel("x", "r"))
    assert changed["completion"] == json.dumps([{**SAY, "content": "x"}])


LISTS = ['[{"name": "Bob"}]', '[\n  {"name": "Bob"}\n]', '[{"x": 1},', '[{"x": 1}] as a table']


@pytest.mark.parametrize("text", LISTS)
def test_a_text_that_is_a_list_without_a_speaker_is_a_text(text: str, make: Any) -> None:
    """Structured answers are lists of objects too."""
    rows = [
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": [ASK], "completion": text},
        {"prompt": text, "completion": [SAY]},
    ]
    source = make("jsonl", rows)
    _, answer, question = (row.sample for row in source.read())
    assert (answer.response, question.query) == (text, text)
    assert source.restore(answer) == {"id": answer.id, **rows[1]}
    assert source.restore(question) == {"id": question.id, **rows[2]}
    row = {"prompt": text, "chosen": text, "rejected": "none"}
    pair = only(made := make("jsonl", [row]))
    assert (pair.query, pair.response) == (text, text)
    assert made.restore(pair) == {"id": pair.id, **row}


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "x"', "[{'role': 'user', 'content': 'x'", '[{"from": "robot", "value": "x"}]'])  # fmt: skip
def test_turns_that_cannot_be_read_are_no_text(text: str, make: Any) -> None:
    _, bad = make("jsonl", [{"prompt": [ASK], "completion": [SAY]}, {"prompt": text, "completion": [SAY]}]).read()  # fmt: skip
    assert isinstance(bad, Unreadable)


def test_numbers_stay_numbers(make: Any) -> None:
    source = make("jsonl", [{"prompt": [ASK], "completion": 5}, {"prompt": 7, "completion": [SAY]}])
    first, second = (row.sample for row in source.read())
    assert (first.response, second.query) == ("5", "7")
    assert source.restore(first)["completion"] == 5
    assert source.restore(first.relabel("6", "r"))["completion"] == 6
    assert source.restore(second)["prompt"] == 7


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": [ASK], "completion": []}, "'completion' has no turns"),
        ({"prompt": [ASK], "completion": None}, "'completion' is missing"),
        ({"prompt": [], "completion": [SAY]}, "'prompt' has no turns"),
        ({"prompt": " ", "completion": [SAY]}, "'prompt' is empty"),
        ({"prompt": [ASK], "completion": [ASK]}, "'completion' has no turn of an assistant"),
        ({"prompt": [SAY], "completion": [SAY]}, "has no turn of a user before the response"),
        ({"prompt": [{"role": "robot", "content": "x"}], "completion": [SAY]}, "turn 1 has the unknown role 'robot'"),
        ({"prompt": [ASK], "completion": {"role": "assistant"}}, "'completion' is an object, not a list of turns"),
        ({"prompt": [ASK], "completion": ["yes"]}, "'completion' has no turn of an assistant"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_named(row: dict[str, Any], words: str, make: Any) -> None:
    good, bad = make("jsonl", [{"prompt": [ASK], "completion": [SAY]}, row]).read()
    assert isinstance(good, Row)
    assert isinstance(bad, Unreadable)
    assert words in bad.error


def test_two_texts_are_the_shape_prompt_and_turns_never_are(make: Any) -> None:
    assert make("jsonl", [{"prompt": "a", "completion": "b"}]).rows.layout.shape == "prompt"
    assert make("jsonl", [{"prompt": [ASK], "completion": [SAY]}]).rows.layout.shape == "completion"  # fmt: skip
    named = make("jsonl", [{"p": [ASK], "c": [SAY]}], shape="completion", columns={"prompt": "p", "completion": "c"})  # fmt: skip
    assert only(named).response == "It rains."


def test_a_shape_whose_columns_are_missing_names_them(make: Any) -> None:
    with pytest.raises(SourceError, match=r"`columns: \{prompt: COLUMN, completion: COLUMN\}`"):
        list(make("jsonl", [{"p": [ASK], "c": [SAY]}], shape="completion").read())


def test_a_bad_completion_of_an_unpaired_preference_is_named(make: Any) -> None:
    (row,) = make("jsonl", [{"prompt": [ASK], "completion": [SAY], "label": False}]).read()
    assert any("KTO" in name for name in row.not_carried)


@pytest.mark.parametrize("key", [None, "prompt"])
def test_pairs_of_conversations_have_tools_and_several_turns(key: str | None, make: Any) -> None:
    """Explicit and implicit prompts, with a call and its result before the responses."""
    before = [ASK, CALL, RESULT]
    other = {"role": "assistant", "content": "It shines."}
    row: dict[str, Any] = {"chosen": [SAY], "rejected": [other]} if key else {"chosen": [*before, SAY], "rejected": [*before, other]}  # fmt: skip
    row = {**({"prompt": before} if key else {}), **row, "tools": [TOOL]}
    source = make("jsonl", [row])
    sample = only(source)
    assert [message.role for message in sample.messages] == ["user", "assistant", "tool", "assistant"]  # fmt: skip
    assert sample.messages[1].tool_calls[0].name == "weather"
    assert sample.rejected is not None
    assert (sample.response, sample.rejected.content) == ("It rains.", "It shines.")
    assert [dict(tool) for tool in sample.tools] == [TOOL]
    assert source.restore(sample) == {"id": sample.id, **row}


def test_pairs_that_are_indented_json_text_are_turns(make: Any) -> None:
    row = {"prompt": json.dumps([ASK], indent=2), "chosen": json.dumps([SAY], indent=2), "rejected": json.dumps([{**SAY, "content": "No."}], indent=2)}  # fmt: skip
    source = make("csv", [row])
    sample = only(source)
    assert (sample.query, sample.response) == ("Weather in Oslo?", "It rains.")
    restored = source.restore(sample)
    assert {name: json.loads(restored[name]) for name in row} == {name: json.loads(row[name]) for name in row}  # fmt: skip


def test_init_check_run_and_export_know_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rules alone: the cleaned rows are the rows that were read, and an export is their whole conversation."""
    monkeypatch.chdir(tmp_path)
    ends = [{"role": "assistant", "content": f"It rains in town {n}, take an umbrella."} for n in range(4)]  # fmt: skip
    rows = [{"prompt": [ASK, CALL, RESULT], "completion": [end], "tools": [TOOL]} for end in ends]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert entry(["init", "--data", "rows.jsonl", "--out", "made.yaml"]) == 0
    out = capsys.readouterr().out
    assert "shape = 'completion', prompt = 'prompt', completion = 'completion', tools = 'tools'" in out  # fmt: skip
    assert "all of 4 rows can be read" in out
    Path("r.yaml").write_text("name: r\nsource: {use: jsonl, path: rows.jsonl}\nsamples:\n  - {use: entp.purge}\narms: []\n")  # fmt: skip
    assert entry(["check", "r.yaml"]) == 0
    assert entry(["run", "r.yaml", "--out", "out"]) == 0
    cleaned = [json.loads(line) for line in Path("out/cleaned.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in cleaned] == rows
    assert entry(["export", "out", "--format", "messages", "--out", "chat"]) == 0
    first = json.loads(Path("chat/train.jsonl").read_text().splitlines()[0])
    assert [turn["role"] for turn in first["messages"]] == ["user", "assistant", "tool", "assistant"]  # fmt: skip
    assert (first["messages"][1]["weight"], first["messages"][3]) == (0.0, ends[0])
    assert first["tools"] == [TOOL]
