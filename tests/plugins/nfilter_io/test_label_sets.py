"""Label sets: recognised, listed in the prompt, read strictly, and written in their original form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Row, SourceError, Unreadable
from nfilter_io.label_sets import Classes, class_text, read_class, write_class
from nfilter_io.sources import Csv, Datasets, JsonLines, Parquet

WORDS = [{"text": f"text {n}", "label": ("spam", "ham")[n % 2]} for n in range(6)]
NUMBERS = [{"text": f"text {n}", "label": n % 3} for n in range(9)]


def source(tmp_path: Path, rows: list[Any], **config: Any) -> JsonLines:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonLines(JsonLines.Config.model_validate({"path": "d.jsonl", **config}), tmp_path)


def read(made: Any) -> tuple[list[Row], list[Unreadable]]:
    rows = list(made.read())
    return [row for row in rows if isinstance(row, Row)], [
        row for row in rows if isinstance(row, Unreadable)
    ]


def test_every_prompt_lists_the_classes(tmp_path: Path) -> None:
    made = source(tmp_path, WORDS)
    rows, unreadable = read(made)
    assert not unreadable
    assert made.rows.layout.describe() == {
        "shape": "label",
        "text": "text",
        "label": "label",
        "classes": "ham, spam",
    }
    for row, before in zip(rows, WORDS, strict=True):
        system, user, assistant = row.sample.messages
        assert system.role == "system"
        assert system.content.endswith("and nothing else:\n- ham\n- spam")
        assert (user.content, assistant.content) == (before["text"], before["label"])
        assert row.sample.meta["options"] == ["ham", "spam"]
        restored = dict(made.restore(row.sample))
        restored.pop("id")
        assert restored == before


def test_numbers_are_indices_of_configured_names(tmp_path: Path) -> None:
    made = source(tmp_path, NUMBERS, labels=["bad", "so so", "good"])
    rows, _ = read(made)
    assert [row.sample.response for row in rows[:3]] == ["bad", "so so", "good"]
    other = rows[0].sample.relabel("good", "a test")
    assert made.restore(other)["label"] == 2
    assert made.restore(rows[1].sample)["label"] == 1
    # Without names the numbers are the classes, with a hint how to name them.
    made = source(tmp_path, NUMBERS)
    rows, _ = read(made)
    assert [row.sample.response for row in rows[:3]] == ["0", "1", "2"]
    assert "labels: [NAME, ...]" in made.rows.layout.describe()["classes"]
    assert made.restore(rows[0].sample.relabel("2", "a test"))["label"] == 2


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("eggs", "is 'eggs', which is not one of the classes: ham, spam"),
        ("Spam", "is 'Spam', which is not one of the classes"),
        (None, "is missing"),
        ("", "is missing"),
        (2, "is 2, which is not one of the classes"),
        (-1, "is -1, which is not one of the classes"),
        (0.5, "is 0.5, which is not one of the classes"),
        (True, "is True, which is not one of the classes"),
        ("1" * 5000, "which is not a valid class name"),
        (["spam"], "is a list, not text"),
    ],
)
def test_a_cell_that_is_not_one_of_the_classes_is_unreadable(
    tmp_path: Path, cell: Any, expected: str
) -> None:
    rows, unreadable = read(
        source(
            tmp_path, [*WORDS, {"text": "x", "label": cell}], shape="label", labels=["ham", "spam"]
        )
    )
    assert len(rows) == len(WORDS)
    assert expected in unreadable[0].error


def test_a_late_class_is_listed_for_every_row(tmp_path: Path) -> None:
    late = [
        *[{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(300)],
        {"text": "z", "label": "c"},
    ]
    rows, unreadable = read(source(tmp_path, late))
    assert (len(rows), unreadable) == (301, [])
    assert {tuple(row.sample.meta["options"]) for row in rows} == {("a", "b", "c")}


def test_the_truth_does_not_affect_the_classes(tmp_path: Path) -> None:
    noisy = [{**row, "gold": "other" if n == 0 else row["label"]} for n, row in enumerate(WORDS)]
    rows, _ = read(source(tmp_path, noisy, truth="gold"))
    assert rows[0].truth is None
    assert rows[0].sample.meta["options"] == ["ham", "spam"]
    assert rows[1].truth == "ham"
    numbers = [{**row, "gold": 0} for row in NUMBERS]
    rows, _ = read(source(tmp_path, numbers, truth="gold", labels=["a", "b", "c"]))
    assert {row.truth for row in rows} == {"a"}


def test_other_column_names_and_a_system_column(tmp_path: Path) -> None:
    rows = [
        {"system": "Be fair.", "review": f"r{n}", "sentiment": "+-"[n % 2], "options": n}
        for n in range(6)
    ]
    made = source(tmp_path, rows)
    found, _ = read(made)
    assert found[0].sample.messages[0].content.startswith("Be fair.\n\nClassify the text.")
    for row, before in zip(found, rows, strict=True):
        restored = dict(made.restore(row.sample))
        restored.pop("id")
        assert restored == before


def test_booleans_are_classes(tmp_path: Path) -> None:
    made = source(tmp_path, [{"text": f"t{n}", "label": bool(n % 2)} for n in range(6)])
    rows, _ = read(made)
    assert [row.sample.response for row in rows[:2]] == ["false", "true"]
    assert made.restore(rows[0].sample)["label"] is False
    assert made.restore(rows[0].sample.relabel("true", "a test"))["label"] is True


def test_a_csv_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\na,0\nb,1\nc,1\nd,0\n")
    made = Csv(Csv.Config.model_validate({"path": "d.csv", "labels": ["no", "yes"]}), tmp_path)
    rows, _ = read(made)
    assert [row.sample.response for row in rows] == ["no", "yes", "yes", "no"]
    assert made.restore(rows[0].sample.relabel("yes", "a test"))["label"] == "1"


def test_class_names_come_from_the_schema_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict(
        {"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features
    )
    data.save_to_disk(tmp_path / "folder")
    data.to_parquet(tmp_path / "d.parquet")
    for cls, path in ((Datasets, "folder"), (Parquet, "d.parquet")):
        made = cls(cls.Config.model_validate({"path": path}), tmp_path)
        rows, unreadable = read(made)
        assert [row.sample.response for row in rows] == ["pos", "neg"]
        assert "is -1, which is not one of the classes: neg, pos" in unreadable[0].error
        assert made.restore(rows[0].sample.relabel("neg", "a test"))["label"] == 0


def test_free_text_is_not_a_label_set(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": f"a label of its own, number {n}"} for n in range(30)]
    with pytest.raises(SourceError, match="the shape of the rows is unknown"):
        source(tmp_path, rows).rows.layout  # noqa: B018
    many = [{"text": "t", "label": f"l{n}"} for n in range(1100)]
    with pytest.raises(SourceError, match=r"more than 1,000 distinct values.*shape: prompt"):
        source(tmp_path, many, shape="label").rows.layout  # noqa: B018


@settings(max_examples=60)
@given(
    names=st.lists(
        st.text(min_size=1, max_size=8).filter(str.strip),
        min_size=2,
        max_size=6,
        unique_by=str.strip,
    ),
    data=st.data(),
)
def test_any_class_survives_reading_and_writing(names: list[str], data: st.DataObject) -> None:
    try:
        classes = Classes(tuple(class_text(name, "x") for name in names), named=True)
    except Exception:  # noqa: BLE001 (a name with a line break is invalid)
        return
    cell: Any = data.draw(st.sampled_from([*classes.names, *range(len(names))]))
    name, form = read_class(cell, classes, "x")
    assert name in classes.names
    assert write_class(name, classes, form) == cell
    other = data.draw(st.sampled_from(classes.names))
    again = write_class(other, classes, form)
    assert read_class(again, classes, "x")[0] == other


@pytest.mark.parametrize("row", [{"text": "words"}, {"id": "1", "content": "words", "url": "x"}])
def test_plain_text_is_reported_with_a_remedy(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(SourceError, match=r"plain text .* contains no answers") as error:
        source(tmp_path, [row]).rows.layout  # noqa: B018
    assert "shape: label" in str(error.value)
