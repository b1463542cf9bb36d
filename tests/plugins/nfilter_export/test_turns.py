"""Tools, tool calls, tool results, reasoning and turn weights in the formats of other trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter import Exported, Message, Sample, ToolCall
from nfilter_export.conversation_formats import (
    LlamaFactory,
    LlamaFactoryConfig,
    Messages,
    NoSettings,
)
from nfilter_export.token_formats import Axolotl, Trl

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
    message = exporter.export(Exported(list(samples), [], (), encoded=False), tmp_path)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], message


def with_more(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**turn, **each} for turn, each in zip(TURNS, more, strict=True)]


def test_messages_contain_all_fields(tmp_path: Path) -> None:
    rows, message = export(Messages(NoSettings()), tmp_path, Sample("a", TALK, tools=(TOOL,)))
    turns = with_more({}, {}, {"weight": 0.0}, {}, {"weight": 0.5})
    assert rows == [{"id": "a", "messages": turns, "tools": [TOOL], "weight": 1.0}]
    assert message == ["train.jsonl: 1 conversations"]


def test_trl_exports_messages_and_tools_and_reports_lost_weights(tmp_path: Path) -> None:
    rows, message = export(Trl(NoSettings()), tmp_path, Sample("a", TALK, tools=(TOOL,)))
    assert rows[0]["tools"] == [TOOL]
    assert [turn["content"] for turn in rows[0]["messages"]] == [turn["content"] for turn in TURNS]
    assert "2 assistant turns have a weight other than 1, which" in message[1]


def test_axolotl_exports_a_train_flag_per_turn(tmp_path: Path) -> None:
    rows, message = export(Axolotl(NoSettings()), tmp_path, Sample("a", TALK, tools=(TOOL,)))
    turns = with_more({}, {}, {"train": False}, {}, {"train": True})
    assert rows == [{"messages": turns, "tools": [TOOL]}]
    assert "1 assistant turns have a weight other than 0 and 1" in message[1]
    assert "message_field_training: train" in message[-1]


def test_llama_factory_exports_tool_calls_and_results_as_turns(tmp_path: Path) -> None:
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
    ("turns", "reason"),
    [
        ((*TALK[1:3], TALK[3], TALK[3], TALK[4]), "two consecutive turns of the same side"),
        ((TALK[1], Message("assistant", "let me see", tool_calls=(CALL,))), "a turn with both text and a tool call"),
    ],
)  # fmt: skip
def test_llama_factory_skips_unsupported_rows_and_reports_them(
    tmp_path: Path, turns: tuple[Message, ...], reason: str
) -> None:
    exporter = LlamaFactory(LlamaFactoryConfig())
    rows, message = export(exporter, tmp_path, Sample("a", turns), Sample("b", TALK))
    assert len(rows) == 1
    assert any("1 rows are skipped: they contain " + reason in line for line in message)
