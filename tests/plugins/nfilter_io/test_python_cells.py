"""Lists and dicts as Python prints them: read as they are, and nothing is evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import Row, SourceError
from nfilter_io.python_cells import read_python

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(VALUES, max_size=4) | st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_python_prints_is_read(value: Any) -> None:
    assert read_python(repr(value)) == value


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6))
def test_an_array_of_texts_is_read_as_its_items(texts: list[str]) -> None:
    array = np.array(texts, dtype=object)
    assert read_python(str(array)) == texts
    assert read_python(repr({"text": array, "n": 1})) == {"text": texts, "n": 1}


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "-v", "'a'", "1", "[", "['a'", "[a]", "['a']x", "{'a'}", "{'a':}", "{1.5: 2}", "{'a': 1, 'a': 2}", "[1+1]", "['a''b']",
        "__import__('os')", "[__import__('os')]", "[f'a']", "[b'a']", "[nan]", "[...]", "array(['a']", "[1" + "0" * 400 + "x]",
        "[" * 100 + "]" * 100, r"['\U00110000']",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_python(text)


QUESTION = {"question": "a metal?", "answer": "B"}


@pytest.mark.parametrize(
    "cell",
    [
        "['iron', \"it's tin\"]",
        "['iron' \"it's tin\"]",
        "('iron', \"it's tin\")",
        "{'text': ['iron', \"it's tin\"], 'label': ['A', 'B']}",
        "{'label': array(['A', 'B'], dtype=object), 'text': array(['iron', \"it's tin\"],\n      dtype=object)}",
        "{'A': 'iron', 'B': \"it's tin\"}",
        "[{'label': 'A', 'text': 'iron'}, {'label': 'B', 'text': \"it's tin\"}]",
    ],
)
def test_options_of_a_data_frame_are_options(cell: str, make: Any) -> None:
    made = make("csv", [{**QUESTION, "options": cell}])
    (row,) = made.read()
    assert row.sample.query == "a metal?\nA. iron\nB. it's tin"
    restored = dict(made.restore(row.sample.relabel("A", "a test")))
    assert (restored["options"], restored["answer"]) == (cell, "A")


def test_turns_of_a_data_frame_are_written_as_they_came(make: Any) -> None:
    turns = [{"role": "user", "content": "it's?"}, {"role": "assistant", "content": 'say "no"'}]
    made = make("csv", [{"messages": repr(turns)}])
    (row,) = made.read()
    assert isinstance(row, Row)
    assert made.restore(row.sample)["messages"] == repr(turns)
    turns[1]["content"] = "yes"
    assert made.restore(row.sample.relabel("yes", "a test"))["messages"] == repr(turns)


@pytest.mark.types("has no list of options: «»; write a JSON list")
@pytest.mark.parametrize("cell", ["A) iron B) tin", "iron|tin", "iron\ntin"])
def test_letters_without_a_list_of_options_are_no_answers(cell: str, make: Any) -> None:
    rows = [{**QUESTION, "options": cell}] * 3
    with pytest.raises(
        SourceError, match=r"'options' has no list of options: .*; write a JSON list"
    ):
        list(make("csv", rows).read())
    (row, *_) = make("csv", [{**QUESTION, "options": '["iron", "tin"]'}]).read()
    assert isinstance(row, Row)
    (row, *_) = make("csv", rows, shape="prompt").read()
    assert isinstance(row, Row)
