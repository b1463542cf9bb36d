"""Files and turns in forms that are met in practice: read, or refused with what to type."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nfilter import Row, SourceError, Unreadable
from nfilter.cli import entry

ROW = {"prompt": "Why?", "response": "So."}
LINE = json.dumps(ROW).encode() + b"\n"


def read(source: Any) -> list[Any]:
    return list(source.read())


@pytest.mark.types("is an Arrow file; write it as Parquet and type `use: parquet`")
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(LINE, mtime=0), r"is compressed; unpack it first \(gunzip\)"),
        (bz2.compress(LINE), r"is compressed; unpack it first \(bunzip2\)"),
        (lzma.compress(LINE), r"is compressed; unpack it first \(unxz\)"),
        (b"\x28\xb5\x2f\xfd" + LINE, r"is compressed; unpack it first \(unzstd\)"),
        (b"ARROW1\x00\x00" + LINE, "is an Arrow file; write it as Parquet and type `use: parquet`"),
    ],
)
def test_a_file_of_another_format_is_named_by_its_first_bytes(
    data: bytes, words: str, kind: str, over: Any
) -> None:
    with pytest.raises(SourceError, match=words):
        read(over(kind, data))


def test_a_column_may_begin_like_a_compressed_file(over: Any) -> None:
    (row,) = read(over("csv", b"BZh1,prompt,response\n0,Why?,So.\n"))
    assert row.sample.response == "So."


@pytest.mark.parametrize(
    ("suffix", "command"),
    [("gz", "gunzip"), ("zst", "unzstd"), ("xz", "unxz"), ("bz2", "bunzip2"), ("zip", "unzip")],
)
def test_init_says_how_to_unpack(
    suffix: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"rows.jsonl.{suffix}"
    file.write_bytes(b"x")
    assert entry(["init", "--data", str(file), "--out", str(tmp_path / "r.yaml")]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert f"that end in '.{suffix}'; unpack it first ({command}), and name the file in it" in said


@pytest.mark.types("to write one row per line, type «»")
def test_columns_in_one_object_are_rows_after_the_command(over: Any, tmp_path: Path) -> None:
    """What pandas writes by default."""
    pytest.importorskip("pandas")
    table = {"prompt": {"0": "a?", "1": "b?"}, "response": {"0": "c", "1": "d"}}
    with pytest.raises(SourceError, match="a column under each key") as error:
        read(over("json", json.dumps(table).encode()))
    command = re.search(r"type python -c ('.*') in its folder", str(error.value))
    assert command is not None
    code = subprocess.run(["sh", "-c", f"printf %s {command[1]}"], capture_output=True, text=True, check=True).stdout  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": "a?", "response": "c"}, {"prompt": "b?", "response": "d"}]


@pytest.mark.types("type `use: json` for one list of rows, else put each on one line with: jq")
@pytest.mark.parametrize("text", [json.dumps(ROW, indent=1), json.dumps([ROW], indent=1)])
def test_rows_over_several_lines_are_no_json_lines(text: str, over: Any) -> None:
    with pytest.raises(SourceError, match=r"line 1: .*rows over several lines .*jq -c \. FILE > rows\.jsonl"):  # fmt: skip
        over("jsonl", text.encode()).rows.layout  # noqa: B018
    if text.startswith("["):
        (row,) = read(over("json", text.encode()))
        assert row.sample.response == "So."


@pytest.mark.types("convert them: tr '\\r' '\\n'")
def test_lines_that_end_with_a_carriage_return_alone(over: Any) -> None:
    old = b"prompt,response\rWhy?,So.\rHow?,Thus.\r"
    with pytest.raises(SourceError, match="lines end with a carriage return alone; convert them: tr"):  # fmt: skip
        read(over("csv", old))
    new = subprocess.run(["tr", "\\r", "\\n"], input=old, capture_output=True, check=True).stdout
    assert [row.sample.response for row in read(over("csv", new))] == ["So.", "Thus."]


TURNS = [
    ("messages", "role", "value", "user", "assistant"),
    ("conversations", "from", "content", "human", "gpt"),
    ("conversations", "from", "value", "Human", "GPT"),
    ("conversations", "from", "value", "User", "Assistant"),
    ("conversations", "from", "value", "user", "model"),
    ("messages", "role", "content", "User", "Assistant"),
    ("messages", "role", "content", "human", "gpt"),
    ("messages", "role", "content", "user", "model"),
    ("messages", "role", "content", "human", "ai"),
]


@pytest.mark.parametrize(("column", "who", "what", "user", "other"), TURNS)
def test_turns_with_other_names_are_read_and_restored(
    column: str, who: str, what: str, user: str, other: str, make: Any
) -> None:
    turns = [{who: user, what: "Why?"}, {who: other, what: "So."}, {who: user, what: "And?"}, {who: other, what: "Thus."}]  # fmt: skip
    source = make("jsonl", [{column: turns}])
    (row,) = read(source)
    assert isinstance(row, Row), row
    assert [(m.role, m.content) for m in row.sample.messages] == [
        ("user", "Why?"), ("assistant", "So."), ("user", "And?"), ("assistant", "Thus."),
    ]  # fmt: skip
    assert row.not_carried == ()
    assert "Thus." not in repr(row.sample.meta)
    assert source.restore(row.sample) == {"id": row.sample.id, column: turns}
    changed = source.restore(row.sample.relabel("No.", "r"))
    assert changed[column] == [*turns[:3], {who: other, what: "No."}]


MIXED = [
    [{"from": "human", "value": "Why?"}, {"from": "gpt", "content": "So."}],
    [{"role": "user", "content": "Why?"}, {"from": "gpt", "value": "So."}],
    [{"from": "human", "value": "Why?"}, {"role": "assistant", "content": "So."}],
    [{"role": "user", "content": "Why?"}, {"role": "assistant", "value": "So."}],
]


@pytest.mark.parametrize("turns", MIXED)
def test_turns_of_two_forms_in_one_file_are_read(turns: list[dict[str, str]], make: Any) -> None:
    """A file of one form, with rows of the other and rows of both; as one list, a completion, and a pair."""
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    other = {key: "No." if text == "So." else text for key, text in turns[1].items()}
    rows = [{"conversations": shared}, {"conversations": turns}]
    source = make("jsonl", rows)
    _, row = read(source)
    assert [(m.role, m.content) for m in row.sample.messages] == [("user", "Why?"), ("assistant", "So.")]  # fmt: skip
    assert source.restore(row.sample)["conversations"] == turns
    assert source.restore(row.sample.relabel("No.", "r"))["conversations"] == [turns[0], other]

    source = make("jsonl", [{"prompt": turns[:1], "completion": turns[1:]}])
    (row,) = read(source)
    assert (row.sample.query, row.sample.response) == ("Why?", "So.")
    assert source.restore(row.sample.relabel("No.", "r"))["completion"] == [other]

    pair = {"chosen": turns, "rejected": [turns[0], {"from": "gpt", "value": "Because."}]}
    source = make("jsonl", [pair])
    (row,) = read(source)
    assert row.sample.response == "So."
    assert {key: source.restore(row.sample)[key] for key in pair} == pair


def test_a_turn_without_a_text_is_named(make: Any) -> None:
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "text": "So."}]
    (row,) = read(make("jsonl", [{"conversations": turns}]))
    assert isinstance(row, Unreadable)
    assert "turn 2: the field 'value' is missing" in row.error


def test_every_unreadable_row_of_a_line_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A JSON list without line breaks has all of its rows on line 1."""
    monkeypatch.chdir(tmp_path)
    rows = [ROW, {"prompt": "first?", "response": None}, {"prompt": None, "response": "second"}]
    Path("rows.json").write_text(json.dumps(rows))
    Path("r.yaml").write_text("name: r\nsource: {use: json, path: rows.json}\nsamples:\n  - {use: entp.purge}\narms: []\n")  # fmt: skip
    assert entry(["run", "r.yaml", "--out", "out"]) == 0
    capsys.readouterr()
    assert entry(["explain", "out", "line:1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] == "the field 'response' is missing; the field 'prompt' is missing"
    assert "first?" in found["raw"]
    assert "second" in found["raw"]
