"""Reading any bytes yields rows, unreadable rows, or one typed error."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Row, SourceError, Unreadable
from nfilter_io.cells import excerpt
from nfilter_io.multiple_choice import (
    LETTERS,
    AnswerForm,
    Options,
    guess_form,
    read_answer,
    write_answer,
)
from nfilter_io.sources import Csv, Json, JsonLines, Parquet

KINDS = {"jsonl": JsonLines, "json": Json, "csv": Csv, "parquet": Parquet}

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
filled = text.filter(lambda value: value.strip() != "")
scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalar,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
extra = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


def read(kind: str, data: bytes, **config: Any) -> tuple[Any, list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        path.write_bytes(data)
        source = KINDS[kind](KINDS[kind].Config(path="data", **config), Path(folder))
        items = list(source.read())
    return source, items


def survives(kind: str, data: bytes, **config: Any) -> None:
    try:
        source, items = read(kind, data, **config)
    except SourceError:
        return
    for item in items:
        assert isinstance(item, Row | Unreadable)
        if isinstance(item, Row):
            json.dumps(source.restore(item.sample), allow_nan=False).encode()
            json.dumps(dict(item.sample.meta), allow_nan=False).encode()
            "".join(message.content for message in item.sample.messages).encode()
        else:
            assert item.raw.isprintable()
            assert len(item.raw) <= 500


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=60)
@given(data=st.binary(max_size=200))
def test_any_bytes(kind: str, data: bytes) -> None:
    survives(kind, data)


START = {
    "jsonl": b'{"prompt": "a", "response": "b"}\n',
    "json": b'[{"prompt": "a", "response": "b"},\n',
    "csv": b"prompt,response\na,b\n",
}
symbols = st.lists(
    st.sampled_from(
        [*'"\\,:{}[]\n\r;\t', "prompt", "response", '"a"', '""', "\ufeff", "\0", "é", "1", "NaN"]
    ),
    max_size=40,
).map("".join)


@pytest.mark.parametrize("kind", list(START))
@settings(max_examples=150)
@given(tail=symbols)
def test_any_text_after_a_good_start(kind: str, tail: str) -> None:
    survives(kind, START[kind] + tail.encode())


@pytest.mark.parametrize("kind", ["jsonl", "json"])
@settings(max_examples=150)
@given(rows=st.lists(st.dictionaries(
    st.sampled_from(["prompt", "response", "messages", "question", "options", "answer", "id", "x"]),
    anything, max_size=5), min_size=1, max_size=4))  # fmt: skip
def test_any_json(kind: str, rows: list[dict[str, Any]]) -> None:
    for shape in ("auto", "prompt", "choice", "messages"):
        if kind == "jsonl":
            survives(kind, "\n".join(json.dumps(row) for row in rows).encode(), shape=shape)
        else:
            survives(kind, json.dumps(rows).encode(), shape=shape)


@settings(max_examples=150)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"prompt": filled, "response": text}, optional={"x": extra, "y": extra}
        ),
        min_size=1,
        max_size=5,
    ),
    ascii_only=st.booleans(),
)
def test_json_lines_round_trip(rows: list[dict[str, Any]], ascii_only: bool) -> None:
    data = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode()
    source, items = read("jsonl", data)
    assert [strip_id(source.restore(item.sample)) for item in items] == rows
    assert len({item.sample.id for item in items}) == len(rows)


@settings(max_examples=150)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"prompt": filled, "response": text, "x": text}),
        min_size=1,
        max_size=6,
    ),
    # without quotes, a lone "\r" inside a cell would end the record
    style=st.sampled_from(
        [(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n")]
    ),
)
def test_csv_round_trip(rows: list[dict[str, str]], style: tuple[Any, str]) -> None:
    quoting, end = style
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["prompt", "response", "x"], quoting=quoting, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    source, items = read("csv", out.getvalue().encode())
    assert [strip_id(source.restore(item.sample)) for item in items] == rows


@settings(max_examples=100)
@given(
    good=st.lists(st.integers(0, 99), min_size=3, max_size=6),
    at=st.integers(1, 5),
    broken=st.sampled_from(
        [b'"x,y', b'"x"y,z', b"x", b"x,y,z", b'x,"y"z"', b',"', b'"""x,y', b"\xff,y"]
    ),
)
def test_one_broken_csv_line_affects_no_other_row(good: list[int], at: int, broken: bytes) -> None:
    lines = [f"p{n},r{n}".encode() for n in good]
    lines.insert(min(at, len(lines)), broken)
    _, items = read("csv", b"prompt,response\n" + b"\n".join(lines) + b"\n")
    found = [item.sample.response for item in items if isinstance(item, Row)]
    assert found == [f"r{n}" for n in good]
    assert len([item for item in items if isinstance(item, Unreadable)]) == 1


def strip_id(row: Any) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "id"}


@settings(max_examples=200)
@given(
    texts=st.lists(text, min_size=2, max_size=26, unique=True),
    data=st.data(),
    form=st.sampled_from(["letter", "text", "index", "label"]),
)
def test_an_answer_is_written_in_the_form_it_was_read_in(
    texts: list[str], data: Any, form: str
) -> None:
    labels = tuple(f"L{n}" for n in range(len(texts))) if form == "label" else None
    options = Options(tuple(texts), labels)
    indices = st.integers(0, len(texts) - 1)
    first, second = data.draw(indices), data.draw(indices)
    base = data.draw(st.sampled_from([0, 1]))
    cells = {
        "letter": [f"({letter})" for letter in LETTERS],
        "text": texts,
        "index": [n + base for n in range(26)],
        "label": labels or (),
    }[form]
    if cells[first] == "" or cells[second] == "":
        return
    answer = read_answer(cells[first], options, AnswerForm(form, base), "answer")  # type: ignore[arg-type]
    assert answer.index == first
    assert write_answer(answer.letter, options, answer.form) == cells[first]
    assert write_answer(LETTERS[second], options, answer.form) == cells[second]


def test_the_usual_form_is_that_of_most_cells() -> None:
    options = Options(("1", "2", "3"))
    assert guess_form([("A", options), ("2", options)]).usual == "letter"
    assert guess_form([("2", options), ("3", options)]).usual == "text"
    other = Options(("x", "y", "z"))
    assert guess_form([(0, other), (2, other)]) == AnswerForm("index", 0)
    assert guess_form([(1, other), (3, other)]) == AnswerForm("index", 1)
    assert guess_form([(0, other), (3, other)]) == AnswerForm("index", 0)
    assert guess_form([(1, other)], base=1) == AnswerForm("index", 1)
    assert guess_form([]) == AnswerForm()


@given(st.text(max_size=2000))
def test_an_excerpt_is_short_and_printable(value: str) -> None:
    cut = excerpt(value)
    assert len(cut) <= 500
    cut.encode()
    assert cut.isprintable()


def test_characters_that_an_excerpt_escapes() -> None:
    assert excerpt("a\x1b[31m\n\udcff\ud800\u202e\U000e0001é") == (
        "a\\x1b[31m\\x0a\\xff\\ud800\\u202e\\U000e0001é"
    )
    assert excerpt("x" * 501) == "x" * 499 + "…"
