"""Every shape in every container: rows are read and restored unchanged, except for a new response."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nfilter import Message, Row, Sample

FORMATS = ("jsonl", "json", "csv", "parquet", "datasets")

OPTIONS = ["iron", "copper", "gold", "tin"]
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hé?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "thanks"},
]
SHARED = [
    {"from": "human", "value": "1+1"},
    {"from": "gpt", "value": "2"},
    {"from": "observation", "value": "ok"},
    {"from": "gpt", "value": "two"},
]

# name: rows, the first row's messages, a new response, and the column and cell that it is written to
SHAPES: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]], str, str, Any]] = {
    "prompt": (
        [{"prompt": "a", "response": "b", "n": 3}, {"prompt": "c\nd", "response": "", "n": 4}],
        [("user", "a"), ("assistant", "b")],
        "z",
        "response",
        "z",
    ),
    "completion": (
        [{"topic": "t", "prompt": "a", "completion": "b"}],
        [("user", "a"), ("assistant", "b")],
        "z",
        "completion",
        "z",
    ),
    "question": (
        [{"question": "a", "answer": "b #### 7"}],
        [("user", "a"), ("assistant", "b #### 7")],
        "8",
        "answer",
        "8",
    ),
    "query": (
        [{"query": "a", "response": "b"}],
        [("user", "a"), ("assistant", "b")],
        "z",
        "response",
        "z",
    ),
    "input": (
        [{"output": "b", "input": "a"}],
        [("user", "a"), ("assistant", "b")],
        "z",
        "output",
        "z",
    ),
    "system": (
        [
            {"system": "be kind", "prompt": "a", "response": "b"},
            {"system": "", "prompt": "a", "response": "b"},
        ],
        [("system", "be kind"), ("user", "a"), ("assistant", "b")],
        "z",
        "response",
        "z",
    ),
    "alpaca": (
        [
            {"instruction": "add", "input": "1 2", "output": "3"},
            {"instruction": "sing", "input": "", "output": "la"},
        ],
        [("user", "add\n\n1 2"), ("assistant", "3")],
        "z",
        "output",
        "z",
    ),
    "dolly": (
        [{"instruction": "add", "context": "1", "response": "3", "category": "x"}],
        [("user", "add\n\n1"), ("assistant", "3")],
        "z",
        "response",
        "z",
    ),
    "messages": (
        [{"source": "s", "messages": CHAT}],
        [(turn["role"], turn["content"]) for turn in CHAT[:-1]],
        "z",
        "messages",
        [*CHAT[:4], {"role": "assistant", "content": "z"}, CHAT[5]],
    ),
    "turns": (
        [{"prompt": CHAT[:4], "completion": CHAT[4:5], "source": "s"}],
        [(turn["role"], turn["content"]) for turn in CHAT[:-1]],
        "z",
        "completion",
        [{"role": "assistant", "content": "z"}],
    ),
    "turns-more": (
        [{"prompt": CHAT[:2], "completion": CHAT[2:]}],
        [(turn["role"], turn["content"]) for turn in CHAT[:-1]],
        "z",
        "completion",
        [*CHAT[2:4], {"role": "assistant", "content": "z"}, CHAT[5]],
    ),
    "turns-system": (
        [{"system": "be brief", "prompt": CHAT[1:2], "response": CHAT[2:3]}],
        [("system", "be brief"), ("user", "hé?"), ("assistant", "yes")],
        "z",
        "response",
        [{"role": "assistant", "content": "z"}],
    ),
    "turns-text": (
        [{"prompt": CHAT[:2], "completion": "yes"}],
        [("system", "be brief"), ("user", "hé?"), ("assistant", "yes")],
        "z",
        "completion",
        "z",
    ),
    "text-turns": (
        [{"question": "hé?", "answer": CHAT[2:3]}],
        [("user", "hé?"), ("assistant", "yes")],
        "z",
        "answer",
        [{"role": "assistant", "content": "z"}],
    ),
    "sharegpt": (
        [{"conversations": SHARED, "lang": "en"}],
        [("user", "1+1"), ("assistant", "2"), ("tool", "ok"), ("assistant", "two")],
        "z",
        "conversations",
        [*SHARED[:3], {"from": "gpt", "value": "z"}],
    ),
    "sharegpt-system": (
        [{"conversations": SHARED, "system": "be kind"}],
        [
            ("system", "be kind"),
            ("user", "1+1"),
            ("assistant", "2"),
            ("tool", "ok"),
            ("assistant", "two"),
        ],
        "z",
        "conversations",
        [*SHARED[:3], {"from": "gpt", "value": "z"}],
    ),
    "choice-letter": (
        [{"question": "q", "options": OPTIONS, "answer": "B"}],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answer",
        "D",
    ),
    "choice-dressed": (
        [{"question": "q", "options": OPTIONS, "answer": "(b)"}],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answer",
        "(d)",
    ),
    "choice-index-0": (
        [
            {"question": "q", "choices": OPTIONS, "answer": 1, "subject": "s"},
            {"question": "r", "choices": OPTIONS, "answer": 0, "subject": "s"},
        ],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answer",
        3,
    ),
    "choice-index-1": (
        [
            {"question": "q", "choices": OPTIONS, "answer": 2},
            {"question": "r", "choices": OPTIONS, "answer": 4},
        ],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answer",
        4,
    ),
    "choice-text": (
        [{"question": "q", "options": OPTIONS, "answer": "copper"}],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answer",
        "tin",
    ),
    "choice-columns": (
        [
            {"question": "q", "A": "iron", "B": "copper", "C": "gold", "D": "tin", "answer": "B"},
            {"question": "q", "A": "iron", "B": "copper", "C": "gold", "D": "", "answer": "C"},
        ],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answer",
        "D",
    ),
    "choice-arc": (
        [
            {
                "question": "q",
                "choices": {"text": OPTIONS, "label": ["1", "2", "3", "4"]},
                "answerKey": "2",
            }
        ],
        [("user", "q\nA. iron\nB. copper\nC. gold\nD. tin"), ("assistant", "B")],
        "D",
        "answerKey",
        "4",
    ),
    "choice-json-text": (
        [{"question": "q", "options": '["iron",   "copper"]', "answer": "B"}],
        [("user", "q\nA. iron\nB. copper"), ("assistant", "B")],
        "A",
        "answer",
        "A",
    ),
    "choice-numbers": (
        [{"question": "q", "options": [10, 20, 30], "answer": 20}],
        [("user", "q\nA. 10\nB. 20\nC. 30"), ("assistant", "B")],
        "A",
        "answer",
        10,
    ),
}


IN_TURNS = {"messages", "sharegpt", "sharegpt-system", "turns", "turns-more", "turns-system", "text-turns"}  # fmt: skip
"""The shapes whose response is in a list of turns."""


def read_all(source: Any) -> list[Row]:
    rows = list(source.read())
    assert all(isinstance(row, Row) for row in rows), rows
    return rows


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_restore_returns_the_row(shape: str, kind: str, make: Any, csv_cells: Any) -> None:
    rows, messages, new, column, cell = SHAPES[shape]
    source = make(kind, rows)
    samples = [row.sample for row in read_all(source)]
    first = samples[0]
    assert [(m.role, m.content) for m in first.messages] == messages
    assert all(row.truth is None for row in source.read())
    wanted = [csv_cells(row) for row in rows] if kind == "csv" else rows
    for sample, row in zip(samples, wanted, strict=True):
        restored = dict(source.restore(sample))
        assert restored.pop("id") == sample.id
        assert restored == row
        assert list(restored) == list(row)
    changed = source.restore(first.relabel(new, "because"))
    expected = csv_cells({column: cell})[column] if kind == "csv" else cell
    assert changed == {"id": first.id, **wanted[0], column: expected}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_messages_contain_the_response(shape: str, kind: str, make: Any) -> None:
    rows, _, _, column, _ = SHAPES[shape]
    source = make(kind, rows)
    # the response's cell is empty in meta
    for row in read_all(source):
        meta = dict(row.sample.meta)
        if shape in IN_TURNS:
            last = max(
                at
                for at, turn in enumerate(meta[column])
                if turn.get("role", turn.get("from")) in ("assistant", "gpt")
            )
            assert meta[column][last].get("content", meta[column][last].get("value")) is None
        else:
            assert meta[column] is None


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.startswith("choice")])
def test_options_are_listed_in_meta(shape: str, make: Any) -> None:
    rows, messages, *_ = SHAPES[shape]
    sample = read_all(make("jsonl", rows))[0].sample
    lines = messages[0][1].split("\n")[1:]
    assert [line[3:] for line in lines] == sample.meta["options"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_generated_sample_is_written(shape: str, make: Any) -> None:
    source = make("jsonl", SHAPES[shape][0])
    made = Sample("made", (Message("user", "why?"), Message("assistant", "so")), parents=("a", "b"))
    restored = source.restore(made)
    assert restored["id"] == "made"
    text = repr(restored)
    assert "why?" in text
    assert "so" in text


def test_a_rewritten_question_is_written(make: Any) -> None:
    source = make("jsonl", SHAPES["alpaca"][0])
    sample = read_all(source)[0].sample
    other = replace(sample, messages=(Message("user", "new"), Message("assistant", "x")))
    restored = {k: v for k, v in source.restore(other).items() if k != "id"}
    assert restored == {"instruction": "new", "input": "", "output": "x"}


@pytest.mark.parametrize(
    ("cell", "new", "written"),
    [(5, "6", 6), (2.5, "3.5", 3.5), (5, "six", "six"), (5, "06", "06"), (2.5, "nan", "nan")],
)
def test_numbers_are_restored_as_numbers(cell: Any, new: str, written: Any, make: Any) -> None:
    source = make("jsonl", [{"prompt": 1, "response": cell}])
    sample = read_all(source)[0].sample
    assert sample.response == str(cell)
    assert sample.query == "1"
    assert source.restore(sample) == {"id": sample.id, "prompt": 1, "response": cell}
    assert source.restore(sample.relabel(new, "r"))["response"] == written


def test_written_rows_are_read_as_the_same_samples(make: Any) -> None:
    for shape, (rows, *_) in SHAPES.items():
        source = make("jsonl", rows)
        before = [row.sample for row in read_all(source)]
        again = make("jsonl", [dict(source.restore(sample)) for sample in before])
        after = [row.sample for row in read_all(again)]
        assert [s.id for s in after] == [s.id for s in before], shape
        assert [s.messages for s in after] == [s.messages for s in before], shape


def test_an_id_column_of_another_name_keeps_its_position(make: Any) -> None:
    source = make("jsonl", [{"prompt": "a", "uid": 7, "response": "b"}], id="uid")
    sample = read_all(source)[0].sample
    assert sample.id == "7"
    assert source.restore(sample) == {"prompt": "a", "uid": 7, "response": "b"}
