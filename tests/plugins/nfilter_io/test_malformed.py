"""Unreadable rows: each is reported with its line and a reason, and reading continues."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from nfilter import NfilterError, Row, SourceError, Unreadable

GOOD = b'{"prompt": "a", "response": "b"}\n'
DEEP = b"[" * 5000 + b"]" * 5000


def _reads_deep() -> bool:
    """Whether this Python reads so many levels, as newer versions do."""
    try:
        return bool(json.loads(DEEP))
    except RecursionError:
        return False


READS_DEEP = _reads_deep()

# a line of a JSON Lines file of prompts and responses, and a part of the reason
BAD_LINES: list[tuple[bytes, str]] = [
    (b"{", "not JSON"),
    (b"nonsense", "not JSON"),
    (b'{"prompt": "a", "response": "b"', "not JSON"),
    (b"{'prompt': 'a', 'response': 'b'}", "not JSON"),
    (b'{"prompt": "a", "response": "b",}', "not JSON"),
    (b'{"prompt": "a", "response": "b"} {}', "not JSON"),
    (b'{"prompt": "a", "response": "b\tc"}', "not JSON"),
    (b'{"prompt": "a", "response": "\\x41"}', "not JSON"),
    (b'\xef\xbb\xbf{"prompt": "a", "response": "b"}', "not JSON"),
    (b'"text"', "a string, not an object"),
    (b"17", "a number, not an object"),
    (b"null", "null, not an object"),
    (b"true", "a boolean, not an object"),
    (b'[{"prompt": "a", "response": "b"}]', "use: json"),
    (b"{}", "'prompt' is missing"),
    (b'{"prompt": "a"}', "'response' is missing"),
    (b'{"response": "b"}', "'prompt' is missing"),
    (b'{"prompt": null, "response": "b"}', "'prompt' is missing"),
    (b'{"prompt": "a", "response": null}', "'response' is missing"),
    (b'{"prompt": "", "response": "b"}', "'prompt' is empty"),
    (b'{"prompt": " \\n", "response": "b"}', "'prompt' is empty"),
    (b'{"prompt": ["a"], "response": "b"}', "a list, not text"),
    (b'{"prompt": "a", "response": {"x": 1}}', "an object, not text"),
    (b'{"prompt": "a", "response": NaN}', "'response' is missing"),
    (b'{"prompt": "a", "response": "b", "x": [Infinity]}', "NaN or an infinity"),
    (b'{"prompt": "a", "response": "b", "x": -Infinity}', "NaN or an infinity"),
    (b'{"prompt": "a", "response": "b", "x": 1e999}', "NaN or an infinity"),
    (b'{"prompt": "a", "response": ' + b"9" * 5000 + b"}", "not JSON"),
    (b'{"prompt": "a", "response": "\\ud800"}', "lone surrogate, U+D800"),
    (b'{"prompt": "a", "response": "b", "x": {"\\udfff": 1}}', "lone surrogate, U+DFFF"),
    (b'{"prompt": "a", "response": "b", "\\ud83d": 1}', "lone surrogate, U+D83D"),
    (b'{"prompt": "a", "response": "caf\xe9"}', "byte 0xe9"),
    (b'{"prompt": "a", "response": "b", "x": "\xff"}', "byte 0xff"),
    (b'{"prompt": "a", "response": "\\u0000"}', "NUL"),
    (b'{"prompt": "a", "response": "b", "x": ["\\u0000"]}', "NUL"),
    (b'{"prompt": "a\x00", "response": "b"}', "not JSON"),
    (b"\x00\x00\x00", "not JSON"),
    (b'{"prompt": "a", "response": "b", "x": ' + DEEP + b"}", "nested"),
    (b'{"prompt": "a", "response": "b", "x": ' + b"[" * 80 + b"]" * 80 + b"}", "nested deeper"),
    (DEEP, "is a list" if READS_DEEP else "nested"),
    (b'{"prompt": "a", "prompt": "b", "response": "c"}', "same key twice"),
    (b'{"prompt": "a", "response": "b", "_nfilter": 1}', "reserved"),
    (b'{"prompt": "a", "response": "' + b"b" * 5000 + b'"}', "longer than 4096 bytes"),
    (b'{"id": "one", "prompt": "a", "response": "b"}', "id 'one' was used by an earlier row"),
    (b'{"id": " ", "prompt": "a", "response": "b"}', "not a valid id"),
    (b'{"id": "' + b"i" * 300 + b'", "prompt": "a", "response": "b"}', "not a valid id"),
    (b'{"id": [1], "prompt": "a", "response": "b"}', "'id' is a list, not text"),
    (b'{"id": true, "prompt": "a", "response": "b"}', "'id' is a boolean"),
]

TURNS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
SHARED = b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
CHOICE = b'{"question": "q", "options": ["x", "y", "z"], "answer": "B"}\n'
ALPACA = b'{"instruction": "i", "input": "", "output": "o"}\n'

BAD_SHAPES: list[tuple[bytes, bytes, str]] = [
    (TURNS, b'{"messages": []}', "no turns"),
    (TURNS, b'{"messages": null}', "missing"),
    (TURNS, b'{"messages": 3}', "not a list"),
    (TURNS, b'{"messages": {"role": "user"}}', "not a list"),
    (TURNS, b'{"messages": "hello"}', "not JSON"),
    (TURNS, b'{"messages": "[NaN]"}', "NaN"),
    (TURNS, b'{"messages": "' + b"[" * 2000 + b'"}', "not JSON"),
    (TURNS, b'{"messages": ["hello"]}', "turn 1 is a string"),
    (TURNS, b'{"messages": [null]}', "turn 1 is null"),
    (TURNS, b'{"messages": [{"role": "user", "content": "a"}]}', "no turn of an assistant"),
    (TURNS, b'{"messages": [{"role": "assistant", "content": "a"}]}', "no turn of a user"),
    (TURNS, b'{"messages": [{"role": "robot", "content": "a"}]}', "unknown role 'robot'"),
    (TURNS, b'{"messages": [{"role": ["user"], "content": "a"}]}', "unknown role"),
    (TURNS, b'{"messages": [{"content": "a"}]}', "unknown role None"),
    (TURNS, b'{"messages": [{"role": "user"}]}', "turn 1: the field 'content' is missing"),
    (TURNS, b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "the field 'text' is missing"),
    (SHARED, b'{"conversations": [{"from": "robot", "value": "a"}]}', "unknown from 'robot'"),
    (SHARED, b'{"conversations": [{"from": {"a": 1}, "value": "a"}]}', "unknown from"),
    (SHARED, b'{"conversations": [{"from": "gpt"}]}', "'value' is missing"),
    (SHARED, b'{"conversations": [{"speaker": "user", "content": "a"}]}', "unknown from None"),
    (SHARED, b'{"conversations": [{"role": "user", "content": "a"}]}', "no turn of an assistant"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": "C"}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": ""}', "missing"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"]}', "missing"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": 2}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": -1}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": 0.5}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": true}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["x", "y"], "answer": ["A"]}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["x", "x"], "answer": "x"}', "none of the options"),
    (CHOICE, b'{"question": "q", "options": ["2", "0", "1"], "answer": 1}', "several"),
    (CHOICE, b'{"question": "q", "options": ["x"], "answer": "A"}', "1 options"),
    (CHOICE, b'{"question": "q", "options": [], "answer": "A"}', "0 options"),
    (CHOICE, b'{"question": "q", "options": "x, y", "answer": "A"}', "not JSON"),
    (CHOICE, b'{"question": "q", "options": "3", "answer": "A"}', "not a list of options"),
    (CHOICE, b'{"question": "q", "options": [null, "y"], "answer": "A"}', "missing"),
    (CHOICE, b'{"question": "q", "options": {"text": ["x", "y"], "label": ["A"]}, "answer": "A"}',
     "do not match"),
    (CHOICE, b'{"question": "", "options": ["x", "y"], "answer": "A"}', "empty"),
    (CHOICE, json.dumps({"question": "q", "options": ["x"] * 27, "answer": "A"}).encode(), "27"),
    (ALPACA, b'{"instruction": "i", "input": ["x"], "output": "o"}', "a list, not text"),
    (ALPACA, b'{"instruction": "", "input": "x", "output": "o"}', "empty"),
    (ALPACA, b'{"instruction": "i", "input": "x"}', "'output' is missing"),
]  # fmt: skip


def split(source: Any) -> tuple[list[Row], list[Unreadable]]:
    rows, bad = [], []
    for item in source.read():
        (rows if isinstance(item, Row) else bad).append(item)
    for item in bad:
        assert item.line >= 1
        assert item.error
        assert len(item.raw) <= 500
        assert item.raw.isprintable()
        item.raw.encode()
        item.error.encode()
        assert item.error.isprintable()
    return rows, bad


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_affects_no_other(line: bytes, reason: str, over: Any) -> None:
    first = b'{"id": "one", "prompt": "a", "response": "b"}\n'
    source = over("jsonl", first + line + b"\n\n" + GOOD, max_line_bytes=4096 * 4)
    if "4096" in reason:
        source = over("jsonl", first + line + b"\n\n" + GOOD, max_line_bytes=4096)
    rows, bad = split(source)
    assert [row.sample.response for row in rows] == ["b", "b"]
    assert [item.line for item in bad] == [2]
    assert reason in bad[0].error


@pytest.mark.parametrize(("good", "line", "reason"), BAD_SHAPES)
def test_a_row_of_the_wrong_shape_affects_no_other(
    good: bytes, line: bytes, reason: str, over: Any
) -> None:
    rows, bad = split(over("jsonl", good + line + b"\n" + good))
    assert len(rows) == 2
    assert [item.line for item in bad] == [2]
    assert reason in bad[0].error


@pytest.mark.parametrize(("good", "line", "reason"), BAD_SHAPES)
def test_the_same_in_one_json_list(good: bytes, line: bytes, reason: str, over: Any) -> None:
    rows, bad = split(over("json", b"[\n" + good + b",\n" + line + b",\n" + good + b"]"))
    assert len(rows) == 2
    assert [item.line for item in bad] == [4]
    assert reason in bad[0].error


# lines with balanced brackets, so the next element can be found
BAD_ELEMENTS = [
    case for case in BAD_LINES if case[0].count(b"{") == case[0].count(b"}") and len(case[0]) > 1
]


@pytest.mark.parametrize(("line", "reason"), BAD_ELEMENTS)
def test_a_bad_element_of_a_json_list(line: bytes, reason: str, over: Any) -> None:
    first = b'[{"id": "one", "prompt": "a", "response": "b"},\n'
    rows, bad = split(over("json", first + line + b",\n" + GOOD + b"]"))
    if "4096" in reason:
        assert len(rows) == 3
        return
    assert [row.sample.response for row in rows] == ["b", "b"]
    assert {item.line for item in bad} == {2}


@pytest.mark.parametrize(
    "line",
    [
        b"{bad json",
        b'{"prompt": "no end, "response": "b"}',
        b'{"prompt": "a", "response": "no end}',
        b'{"prompt": ["a", "response": "b"}',
        b'"',
    ],
)
def test_rows_after_an_element_without_an_end_are_read(line: bytes, over: Any) -> None:
    rows, bad = split(
        over("json", b"[" + GOOD + b",\n" + line + b",\n" + GOOD + b",\n" + GOOD + b"]")
    )
    assert len(rows) == 3
    assert len(bad) == 1


@pytest.mark.parametrize(
    ("end", "rows", "reason"),
    [
        (b"", 2, "cut short"),
        (b",", 2, "cut short"),
        (b', {"prompt": "x', 2, "cut short"),
        (b",]", 2, "not JSON"),
        (b"] trailing", 2, "after the end"),
        (b"]\n[]", 2, "after the end"),
        (b', {"prompt": "x" "y"}]', 2, "not JSON"),
        (b', {"prompt": ]}]', 2, "not JSON"),
        (b" 3]", 1, "neither a comma"),
    ],
)
def test_a_json_list_that_ends_badly(end: bytes, rows: int, reason: str, over: Any) -> None:
    rows_read, bad = split(over("json", b"[" + GOOD + b"," + GOOD + end))
    assert len(rows_read) == rows
    assert any(reason in item.error for item in bad)


CSV_CASES: list[tuple[bytes, list[str], list[tuple[int, str]]]] = [
    (b"a,b\nc\nd,e\n", ["b", "e"], [(3, "1 cells, the header 2")]),
    (b"a,b\nc,d,e\nd,e\n", ["b", "e"], [(3, "3 cells, the header 2")]),
    (b'a,b\n"c,d\ne,f\ng,h\n', ["b", "f", "h"], [(3, "not CSV")]),
    (b'a,b\n"c"x,d\ne,f\n', ["b", "f"], [(3, "not CSV")]),
    (b'a,b\n"c"x,"d\ne",f\ng,h\n', ["b", "h"], [(3, "not CSV"), (4, "broken quote")]),
    (b'a,"b\nc"\nd,e\n', ["b\nc", "e"], []),
    (b'a,"b ""c"""\n', ['b "c"'], []),
    (b'5" pipe,b\nc,d\n', ["b", "d"], []),
    (b"a,b\n,d\ne,f\n", ["b", "f"], [(3, "empty")]),
    (b"a,caf\xe9\nc,d\n", ["d"], [(2, "byte 0xe9")]),
    (b"a,\x00\nc,d\n", ["d"], [(2, "NUL")]),
    (b"a,b\r\n\r\nc,d\r\n", ["b", "d"], []),
    (b"a,b\rc,d\ne,f\n", ["f"], [(2, "not CSV")]),
    (b"a," + b"b" * 3000 + b"\nc,d\n", ["d"], [(2, "longer than 2048 bytes")]),
    (b'a,"' + b"b\n" * 1500 + b'"\nc,d\n', ["d"], [(2, "longer than 2048 bytes")]),
    (b'a,b\n"', ["b"], [(3, "not CSV")]),
    (b'a,b\n"c""\n', ["b"], [(3, "not CSV")]),
]


@pytest.mark.parametrize(("data", "responses", "reasons"), CSV_CASES)
def test_bad_csv(
    data: bytes, responses: list[str], reasons: list[tuple[int, str]], over: Any
) -> None:
    before = csv.field_size_limit()
    rows, bad = split(over("csv", b"prompt,response\n" + data, max_line_bytes=2048))
    assert [row.sample.response for row in rows] == responses
    for (line, reason), item in zip(reasons, bad, strict=False):
        assert item.line == line
        assert reason in item.error
    assert bool(bad) == bool(reasons)
    assert csv.field_size_limit() == before


def test_a_csv_cell_may_exceed_the_csv_module_s_limit(over: Any) -> None:
    rows, bad = split(over("csv", b"prompt,response\na," + b"b" * 300_000 + b"\n"))
    assert len(rows[0].sample.response) == 300_000
    assert not bad


def test_bad_cells_of_a_parquet_file(tmp_path: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nfilter_io.sources import Parquet

    text = pa.array([b"a", b"caf\xe9", b"c", None], pa.binary())
    prompts = pa.Array.from_buffers(pa.string(), 4, text.buffers())
    table = pa.table(
        {
            "prompt": prompts,
            "response": ["x", "y", "z", "w"],
            "when": pa.array([0, 0, 2**60, 0], pa.timestamp("ms")),
            "score": [float("nan"), 1.0, 1.0, 1.0],
            "blob": [b"\xff", b"", b"", b""],
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    rows, bad = split(Parquet(Parquet.Config(path="data.parquet"), tmp_path))
    assert [row.sample.response for row in rows] == ["x"]
    assert rows[0].sample.meta["score"] is None
    assert rows[0].sample.meta["blob"] == "/w=="
    json.dumps(dict(rows[0].sample.meta), allow_nan=False)
    assert [item.line for item in bad] == [2, 3, 4]
    assert "cannot be decoded" in bad[0].error
    assert "cannot be decoded" in bad[1].error
    assert "missing" in bad[2].error


def test_infinity_in_a_parquet_file(make: Any) -> None:
    source = make("parquet", [{"prompt": "a", "response": "b", "x": float("inf")}])
    rows, bad = split(source)
    assert not rows
    assert "infinity" in bad[0].error


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_is_not_part_of_the_text(kind: str, over: Any) -> None:
    body = {"jsonl": GOOD, "json": b"[" + GOOD + b"]", "csv": b"prompt,response\na,b\n"}[kind]
    rows, bad = split(over(kind, b"\xef\xbb\xbf" + body))
    assert len(rows) == 1
    assert not bad
    assert "prompt" in rows[0].sample.meta


def test_another_encoding(over: Any) -> None:
    rows, _ = split(over("csv", "prompt,response\na,café\n".encode("cp1252"), encoding="cp1252"))
    assert rows[0].sample.response == "café"


# invalid containers
BROKEN: list[tuple[str, bytes | None, dict[str, Any], str]] = [
    ("jsonl", None, {}, "cannot be opened"),
    ("json", None, {}, "cannot be opened"),
    ("csv", None, {}, "cannot be opened"),
    ("parquet", None, {}, "cannot be opened"),
    ("datasets", None, {}, "not a folder"),
    ("datasets", b"text", {}, "not a folder"),
    ("parquet", b"", {}, "cannot be opened"),
    ("parquet", b"PAR1 and no more", {}, "cannot be opened"),
    ("parquet", GOOD, {}, "cannot be opened"),
    ("jsonl", b"PAR1 and more", {}, "use: parquet"),
    ("csv", b"\x1f\x8b\x08", {}, "compressed"),
    ("jsonl", "{}".encode("utf-16"), {}, "UTF-16"),
    ("jsonl", GOOD, {"encoding": "utf-99"}, "encoding: utf-8"),
    ("jsonl", GOOD, {"encoding": "utf-16"}, "convert the file to UTF-8"),
    ("jsonl", GOOD, {"encoding": "rot13"}, "encoding: utf-8"),
    ("json", b"", {}, "is empty: it has no rows"),
    ("json", GOOD, {}, "use: jsonl"),
    ("json", b"[" + GOOD + b"]", {"max_bytes": 10}, "use: jsonl"),
    ("csv", b"", {}, "is empty"),
    ("csv", b"\n\n", {}, "is empty"),
    ("csv", b"prompt,prompt\na,b\n", {}, "'prompt'; rename one"),
    ("csv", b'"prompt,response\na,b\n', {}, "cannot be read"),
    ("csv", b"prom\xffpt,response\na,b\n", {}, "byte 0xff"),
    ("csv", b"prompt;response\na;b\n", {}, "delimiter: ';'"),
]


@pytest.mark.parametrize(("kind", "data", "config", "reason"), BROKEN)
def test_a_broken_container_is_a_source_error(
    kind: str, data: bytes | None, config: dict[str, Any], reason: str, over: Any, tmp_path: Any
) -> None:
    source = over(kind, data or b"", **config)
    if data is None:
        next(tmp_path.glob("data*")).unlink()
    with pytest.raises(SourceError) as caught:
        list(source.read())
    assert reason in str(caught.value)
    assert "data" in str(caught.value)
    with pytest.raises(SourceError):
        _ = source.rows.layout


def test_a_folder_in_place_of_a_file(over: Any, tmp_path: Any) -> None:
    for kind in ("jsonl", "json", "csv", "parquet"):
        source = over(kind, b"")
        path = next(tmp_path.glob("data*"))
        path.unlink()
        path.mkdir()
        with pytest.raises(NfilterError):
            list(source.read())
        path.rmdir()


def test_an_invalid_dataset_folder(tmp_path: Any) -> None:
    from nfilter_io.sources import Datasets

    (tmp_path / "folder").mkdir()
    source = Datasets(Datasets.Config(path="folder"), tmp_path)
    with pytest.raises(SourceError, match="datasets folder"):
        list(source.read())
    (tmp_path / "folder" / "state.json").write_text("{")
    (tmp_path / "folder" / "dataset_info.json").write_text("{")
    with pytest.raises(SourceError, match="datasets folder"):
        list(source.read())


def test_a_parquet_file_with_corrupt_data(make: Any, tmp_path: Any) -> None:
    rows = [{"prompt": "p" * 50 + str(n), "response": "r"} for n in range(2000)]
    source = make("parquet", rows)
    path = tmp_path / "data.parquet"
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(SourceError):
        list(source.read())


def test_without_a_readable_row_only_the_layout_raises(over: Any) -> None:
    rows, bad = split(over("jsonl", b"{\n[\n"))
    assert not rows
    assert [item.line for item in bad] == [1, 2]
    with pytest.raises(SourceError, match="no row can be read"):
        _ = over("jsonl", b"{\n").rows.layout


@pytest.mark.parametrize("data", [b'[\n {\n  "prompt": "q"\n }\n]\n', b'[{"prompt": "q"}]\n'])
def test_a_json_list_read_as_json_lines_is_reported_with_the_remedy(over: Any, data: bytes) -> None:
    with pytest.raises(SourceError, match=r"no row can be read; line 1: .*use: json") as caught:
        _ = over("jsonl", data).rows.layout
    assert str(caught.value).count("use: json") == 1


def test_an_empty_file_has_no_rows(over: Any) -> None:
    assert split(over("jsonl", b"")) == ([], [])
    assert split(over("jsonl", b"\n \n")) == ([], [])
    assert split(over("json", b"[]")) == ([], [])
    assert split(over("csv", b"prompt,response\n")) == ([], [])
