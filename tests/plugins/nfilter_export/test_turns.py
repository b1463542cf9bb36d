"""Tools, calls, results, thoughts and weights of turns in other trainers' formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter import Exported, Message, Sample, ToolCall
from nfilter_export.labels import Axolotl, Trl
from nfilter_export.messages import LlamaFactory, LlamaFactoryConfig, Messages, NoSettings

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = ToolCall("add", '{"a" :1}', "c1")
TALK = (
    Message("system", "be red"),
    Message("user", "red ?"),
    Message("assistant", "", tool_calls=(CALL,), weight=0.0),
    Message("tool", "five", name="add", call_id="c1"),
    Message("assistant", "five", reasoning="it says so", weight=0.5),
)
TURNS = [
    {"role": "system", "content": "be red"},
    {"role": "user", "content": "red ?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "five", "name": "add", "tool_call_id": "c1"},
    {"role": "assistant", "content": "five", "reasoning_content": "it says so"},
]  # fmt: skip


def export(exporter: Any, tmp_path: Path, *samples: Sample) -> tuple[list[Any], list[str]]:
    said = exporter.export(Exported(list(samples), [], (), encoded=False), tmp_path)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], said


def with_more(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**turn, **each} for turn, each in zip(TURNS, more, strict=True)]


def test_messages_hold_all(tmp_path: Path) -> None:
    rows, said = export(Messages(NoSettings()), tmp_path, Sample("a", TALK, tools=(TOOL,)))
    turns = with_more({}, {}, {"weight": 0.0}, {}, {"weight": 0.5})
    assert rows == [{"id": "a", "messages": turns, "tools": [TOOL], "weight": 1.0}]
    assert said == ["train.jsonl: 1 conversations"]


def test_trl_has_messages_and_tools_and_says_what_it_loses(tmp_path: Path) -> None:
    rows, said = export(Trl(NoSettings()), tmp_path, Sample("a", TALK, tools=(TOOL,)))
    assert rows[0]["tools"] == [TOOL]
    assert [turn["content"] for turn in rows[0]["messages"]] == [turn["content"] for turn in TURNS]
    assert "2 turns of an assistant have a weight other than 1, which" in said[1]


def test_axolotl_has_a_flag_for_each_turn(tmp_path: Path) -> None:
    rows, said = export(Axolotl(NoSettings()), tmp_path, Sample("a", TALK, tools=(TOOL,)))
    turns = with_more({}, {}, {"train": False}, {}, {"train": True})
    assert rows == [{"messages": turns, "tools": [TOOL]}]
    assert "1 turns of an assistant have a weight other than 0 and 1" in said[1]
    assert "message_field_training: train" in said[-1]


def test_llama_factory_has_calls_and_results_in_roles_of_their_own(tmp_path: Path) -> None:
    exporter = LlamaFactory(LlamaFactoryConfig())
    rows, _ = export(exporter, tmp_path, Sample("a", TALK, tools=(TOOL,)))
    assert rows == [
        {
            "messages": [
                {"role": "user", "content": "red ?"},
                {"role": "function_call", "content": '[{"name": "add", "arguments": {"a": 1}}]'},
                {"role": "observation", "content": "five"},
                {"role": "assistant", "content": "<think>\nit says so\n</think>\n\nfive"},
            ],
            "system": "be red",
            "tools": json.dumps([TOOL["function"]]),
        }
    ]
    info = json.loads((tmp_path / "dataset_info.json").read_text())["nfilter"]
    tags = info["tags"]
    assert {tags[f"{name}_tag"] for name in ("user", "assistant", "observation", "function")} == {
        turn["role"] for turn in rows[0]["messages"]
    }
    assert info["columns"] == {"messages": "messages", "system": "system", "tools": "tools"}


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ((*TALK[1:3], TALK[3], TALK[3], TALK[4]), "two turns of one side in a row"),
        ((TALK[1], Message("assistant", "let me see", tool_calls=(CALL,))), "a text beside a tool call"),
    ],
)  # fmt: skip
def test_llama_factory_leaves_out_what_it_has_no_place_for_and_says_so(
    tmp_path: Path, turns: tuple[Message, ...], why: str
) -> None:
    exporter = LlamaFactory(LlamaFactoryConfig())
    rows, said = export(exporter, tmp_path, Sample("a", turns), Sample("b", TALK))
    assert len(rows) == 1
    assert any("1 rows are left out: they hold " + why in line for line in said)
