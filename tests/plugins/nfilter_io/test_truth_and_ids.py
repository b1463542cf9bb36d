"""The truth is separate from the samples, and ids depend on rows, never on their positions."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from nfilter import Row, SourceError, Unreadable
from nfilter_io.sources import Csv, JsonLines

OPTIONS = ["iron", "copper", "gold"]


def choice(n: int, truth: Any) -> dict[str, Any]:
    return {"question": f"q{n}", "options": OPTIONS, "answer": "ABC"[n % 3], "gold": truth}


@pytest.mark.parametrize(
    ("truths", "expected"),
    [
        (["A", "c", "(B)"], ["A", "C", "B"]),
        (["iron", "gold", "copper"], ["A", "C", "B"]),
        ([0, 2, 1], ["A", "C", "B"]),
        ([1, 3, 2], ["A", "C", "B"]),
        (["1", "3", "2"], ["A", "C", "B"]),
        ([None, "C", ""], [None, "C", None]),
        (["lead", "C", {"x": 1}], [None, "C", None]),
    ],
)
def test_a_choice_truth_becomes_a_letter(
    truths: list[Any], expected: list[str | None], make: Any
) -> None:
    rows = [choice(n, truth) for n, truth in enumerate(truths)]
    assert [row.truth for row in make("jsonl", rows, truth="gold").read()] == expected


def test_other_truths_are_text(make: Any) -> None:
    rows = [{"prompt": "a", "response": "b", "gold": gold} for gold in ("x", 5, 2.5, None, ["y"])]
    truths = [row.truth for row in make("jsonl", rows, truth="gold").read()]
    assert truths == ["x", "5", "2.5", None, None]


@pytest.mark.types("; it stands beside columns: type `«»: «»` there")
def test_the_id_among_the_columns_is_told_where_it_stands(make: Any) -> None:
    rows = [{"q": "a", "a": "b", "Lfd. Nr.": "7"}]
    columns = {"prompt": "q", "response": "a"}
    source = make("jsonl", rows, columns={**columns, "id": "Lfd. Nr."})
    with pytest.raises(SourceError, match=r'beside columns: type `id: "Lfd\. Nr\."` there'):
        list(source.read())
    (row,) = make("jsonl", rows, columns=columns, id="Lfd. Nr.").read()
    assert row.sample.id == "7"


def everything(source: Any) -> str:
    """Return everything that a run can read from a source except the truth."""
    contents = []
    for item in source.read():
        if isinstance(item, Unreadable):
            contents.append(item.error)
        else:
            sample = item.sample
            messages = [(m.role, m.content) for m in sample.messages]
            contents.append((sample.id, messages, dict(sample.meta), source.restore(sample)))
    return json.dumps(contents)


# no value of a truth may affect anything but the truth
TRUTHS: list[Any] = ["A", 1, None, "", "\ud800", "\0", {"a": [1]}, float("nan"), True, "x" * 3000]


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_scrambling_the_truth_changes_nothing_else(kind: str, make: Any) -> None:
    rows = [choice(n, truth) for n, truth in enumerate(TRUTHS * 2)]
    rows += [choice(1, "A"), choice(1, "B"), {"question": "bad", "gold": "A"}]
    before = everything(make(kind, rows, truth="gold"))
    golds = [row["gold"] for row in rows]
    for seed in range(5):
        random.Random(seed).shuffle(golds)
        scrambled = [{**row, "gold": gold} for row, gold in zip(rows, golds, strict=True)]
        assert everything(make(kind, scrambled, truth="gold")) == before
    assert everything(make(kind, [{**row, "gold": None} for row in rows], truth="gold")) == before


def test_no_sample_contains_the_truth(make: Any) -> None:
    rows = [{"id": f"i{n}", "prompt": "a", "response": "b", "gold": "TRUTH"} for n in range(3)]
    for kind in ("jsonl", "json", "csv", "parquet", "datasets"):
        source = make(kind, rows, truth="gold")
        for row in source.read():
            assert row.truth == "TRUTH"
            sample = row.sample
            assert "TRUTH" not in repr(sample)
            assert "gold" not in sample.meta
            assert set(source.restore(sample)) == {"id", "prompt", "response"}


def test_ids_do_not_depend_on_order_and_identical_rows_differ(make: Any) -> None:
    rows: list[dict[str, Any]] = [{"prompt": p, "response": "r"} for p in "abcabca"]
    ids = [row.sample.id for row in make("jsonl", rows).read()]
    assert len(set(ids)) == len(ids)
    assert all(len(name) == 20 and int(name, 16) >= 0 for name in ids)
    turned = [row.sample.id for row in make("jsonl", rows[::-1]).read()]
    assert sorted(turned) == sorted(ids)
    # ids do not depend on the order of columns or the container
    flipped = [{"response": "r", "prompt": row["prompt"]} for row in rows]
    for kind in ("jsonl", "json", "csv", "parquet", "datasets"):
        assert [row.sample.id for row in make(kind, flipped).read()] == ids
    # removing a row changes no other id
    fewer = [row.sample.id for row in make("jsonl", rows[1:4]).read()]
    assert fewer == [ids[1], ids[2], ids[0]]


def test_ids_of_the_source(make: Any) -> None:
    rows = [
        {"id": "x", "prompt": "1", "response": "r"},
        {"id": 7, "prompt": "2", "response": "r"},
        {"id": "x", "prompt": "3", "response": "r"},
        {"id": None, "prompt": "4", "response": "r"},
        {"prompt": "5", "response": "r"},
        {"id": "7", "prompt": "6", "response": "r"},
    ]
    items = list(make("jsonl", rows).read())
    assert [i.sample.id if isinstance(i, Row) else None for i in items][:3] == ["x", "7", None]
    assert [i.line for i in items if isinstance(i, Unreadable)] == [3, 6]
    assert len(items[3].sample.id) == len(items[4].sample.id) == 20


def test_an_unreadable_row_does_not_use_its_id(over: Any) -> None:
    lines = b'{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "a", "response": "b"}\n'
    items = list(over("jsonl", lines * 1 + b'{"id": 2, "prompt": "a", "response": "b"}\n').read())
    assert [isinstance(item, Row) for item in items] == [False, True, True]


def test_reading_twice_yields_the_same_rows(make: Any) -> None:
    source = make("jsonl", [{"prompt": "a", "response": "b"}] * 3)
    assert list(source.read()) == list(source.read())


def peak(source: Any) -> int:
    tracemalloc.start()
    for _ in source.read():
        pass
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return top


def test_a_line_of_any_length_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "a", "response": "b"}\n')
        for _ in range(48):
            file.write(b"x" * (1 << 20))
        file.write(b'\n{"prompt": "a", "response": "c"}\n')
    source = JsonLines(JsonLines.Config(path=path.name), tmp_path)
    top = peak(source)
    items = list(source.read())
    assert [item.line if isinstance(item, Unreadable) else 0 for item in items] == [0, 2, 0]
    assert "16777216 bytes" in items[1].error
    assert top < 40 << 20


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_memory_does_not_grow_with_the_rows(kind: str, tmp_path: Path) -> None:
    def file(n: int) -> Any:
        path = tmp_path / f"{n}.{kind}"
        with path.open("w") as out:
            if kind == "csv":
                out.write("id,prompt,response\n")
            for at in range(n):
                text = "t" * 2000
                row = {"id": str(at), "prompt": text, "response": text}
                out.write(f"{at},{text},{text}\n" if kind == "csv" else json.dumps(row) + "\n")
        cls = JsonLines if kind == "jsonl" else Csv
        return cls(cls.Config(path=path.name), tmp_path)

    small, large = peak(file(1000)), peak(file(4000))
    # 12 MB more text; only a digest per row is stored
    assert large - small < 3000 * 200


def test_a_broken_quote_at_the_start_of_a_large_file_affects_one_row(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    with path.open("w") as out:
        out.write('prompt,response\n"broken,r\n')
        out.writelines(f"p{n},r\n" for n in range(20_000))
    source = Csv(Csv.Config(path=path.name, max_line_bytes=1 << 16), tmp_path)
    items = list(source.read())
    assert [item.line for item in items if isinstance(item, Unreadable)] == [2]
    assert len(items) == 20_001
