"""The weight of a row in the training loss: read from the configured column, and written back."""

from __future__ import annotations

from typing import Any

import pytest

from nfilter import Row, SourceError, Unreadable

CONTAINERS = ["jsonl", "json", "csv", "parquet", "datasets"]


def pair(n: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {n}", "response": f"answer {n}", **more}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_named_column_is_the_weight_of_its_row(make: Any, kind: str) -> None:
    rows = [pair(0, share=0.25), pair(1, share=0), pair(2, share=2.0)]
    read = list(make(kind, rows, weight="share").read())
    assert [row.sample.weight for row in read] == [0.25, 0.0, 2.0]
    assert all(row.not_carried == () for row in read)


def test_an_empty_weight_is_one(make: Any) -> None:
    read = list(make("jsonl", [pair(0, share=None), pair(1, share=""), pair(2, share="0.5"), pair(3)], weight="share").read())  # fmt: skip
    assert [row.sample.weight for row in read] == [1.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("value", [-0.5, "much", True, "nan", "inf", [1]])
def test_a_row_with_an_invalid_weight_is_unreadable(make: Any, value: Any) -> None:
    good, bad, again = make("jsonl", [pair(0), pair(1, id="x", share=value), pair(2, id="x")], weight="share").read()  # fmt: skip
    assert isinstance(good, Row)
    assert isinstance(bad, Unreadable)
    assert bad.error.startswith("the field 'share' is ")
    assert bad.error.endswith("a weight is a number from 0 up")
    assert isinstance(again, Row), "an unreadable row does not use its id"


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        (pair(0, id="a"), {}, {"weight": 0.5}),
        (pair(0, id="a", weight="70 kg"), {}, {"weight": "70 kg", "sample_weight": 0.5}),
        (
            pair(0, id="a", weight=1, sample_weight=2),
            {},
            {"weight": 1, "sample_weight": 2, "loss_weight": 0.5},
        ),
        (pair(0, id="a", share=0.9), {"weight": "share"}, {"share": 0.5}),
    ],
)
def test_a_changed_weight_is_written_to_the_row(make: Any, row: dict[str, Any], settings: Any, expected: Any) -> None:  # fmt: skip
    source = make("jsonl", [row], **settings)
    (read,) = source.read()
    back = dict(source.restore(read.sample.weigh(0.5, "doubtful")))
    assert back == {**row, **expected}


def test_rows_of_weight_one_are_restored_unchanged(make: Any) -> None:
    rows = [pair(0, id="a", share=None), pair(1, id="b", share=1), pair(2, id="c", share="0.5")]
    source = make("jsonl", rows, weight="share")
    back = [dict(source.restore(row.sample)) for row in source.read()]
    assert back == [rows[0], rows[1], {**rows[2], "share": 0.5}]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"weight": "shares"}, "weight names the column 'shares', which does not exist; did you mean 'share'?"),
        ({"weight": "response"}, "the column 'response' is both the weight and columns.response"),
        ({"weight": "share", "truth": "share"}, "the column 'share' is both truth and weight"),
    ],
)  # fmt: skip
def test_an_invalid_weight_column_is_an_error(make: Any, settings: dict[str, Any], error: str) -> None:  # fmt: skip
    columns = {"prompt": "prompt", "response": "response"}
    with pytest.raises(SourceError) as caught:
        list(make("jsonl", [pair(0, share=1.0)], columns=columns, **settings).read())
    assert error in str(caught.value)
