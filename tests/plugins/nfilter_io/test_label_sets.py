"""Label sets: recognised, listed in the prompt, read strictly, and written back as they came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Row, SourceError, Unreadable
from nfilter_io.classes import Classes, class_text, read_class, write_class
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


def test_words_are_classes_and_every_prompt_lists_them(tmp_path: Path) -> None:
    made = source(tmp_path, WORDS)
    rows, gone = read(made)
    assert not gone
    assert made.rows.layout.stated() == {
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


def test_numbers_get_the_names_that_are_given(tmp_path: Path) -> None:
    made = source(tmp_path, NUMBERS, labels=["bad", "so so", "good"])
    rows, _ = read(made)
    assert [row.sample.response for row in rows[:3]] == ["bad", "so so", "good"]
    other = rows[0].sample.relabel("good", "a test")
    assert made.restore(other)["label"] == 2
    assert made.restore(rows[1].sample)["label"] == 1
    # Without names the numbers are the classes, and a hint says how to name them.
    made = source(tmp_path, NUMBERS)
    rows, _ = read(made)
    assert [row.sample.response for row in rows[:3]] == ["0", "1", "2"]
    assert "labels: [NAME, ...]" in made.rows.layout.stated()["classes"]
    assert made.restore(rows[0].sample.relabel("2", "a test"))["label"] == 2


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("eggs", "is 'eggs', which is none of the classes: ham, spam"),
        ("Spam", "is 'Spam', which is none of the classes"),
        (None, "is missing"),
        ("", "is missing"),
        (2, "is 2, which is none of the classes"),
        (-1, "is -1, which is none of the classes"),
        (0.5, "is 0.5, which is none of the classes"),
        (True, "is True, which is none of the classes"),
        ("1" * 5000, "which is no name of a class"),
        (["spam"], "is a list, not text"),
    ],
)
def test_what_is_none_of_the_named_classes_is_unreadable(
    tmp_path: Path, cell: Any, says: str
) -> None:
    rows, gone = read(
        source(
            tmp_path, [*WORDS, {"text": "x", "label": cell}], shape="label", labels=["ham", "spam"]
        )
    )
    assert len(rows) == len(WORDS)
    assert says in gone[0].error


def test_a_class_that_comes_late_is_a_class_of_every_row(tmp_path: Path) -> None:
    late = [
        *[{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(300)],
        {"text": "z", "label": "c"},
    ]
    rows, gone = read(source(tmp_path, late))
    assert (len(rows), gone) == (301, [])
    assert {tuple(row.sample.meta["options"]) for row in rows} == {("a", "b", "c")}


def test_the_truth_decides_nothing(tmp_path: Path) -> None:
    noisy = [{**row, "gold": "other" if n == 0 else row["label"]} for n, row in enumerate(WORDS)]
    rows, _ = read(source(tmp_path, noisy, truth="gold"))
    assert rows[0].truth is None
    assert rows[0].sample.meta["options"] == ["ham", "spam"]
    assert rows[1].truth == "ham"
    numbers = [{**row, "gold": 0} for row in NUMBERS]
    rows, _ = read(source(tmp_path, numbers, truth="gold", labels=["a", "b", "c"]))
    assert {row.truth for row in rows} == {"a"}


def test_columns_of_other_names_and_a_system_column(tmp_path: Path) -> None:
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


def test_truth_values_are_classes(tmp_path: Path) -> None:
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
        rows, gone = read(made)
        assert [row.sample.response for row in rows] == ["pos", "neg"]
        assert "is -1, which is none of the classes: neg, pos" in gone[0].error
        assert made.restore(rows[0].sample.relabel("neg", "a test"))["label"] == 0


def test_free_text_is_no_label_set(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": f"a label of its own, number {n}"} for n in range(30)]
    with pytest.raises(SourceError, match="the shape of the rows is not known"):
        source(tmp_path, rows).rows.layout  # noqa: B018
    many = [{"text": "t", "label": f"l{n}"} for n in range(1100)]
    with pytest.raises(SourceError, match=r"more than 1,000 different values.*shape: prompt"):
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
    except Exception:  # noqa: BLE001 (a name with a line break is no name)
        return
    cell: Any = data.draw(st.sampled_from([*classes.names, *range(len(names))]))
    name, form = read_class(cell, classes, "x")
    assert name in classes.names
    assert write_class(name, classes, form) == cell
    other = data.draw(st.sampled_from(classes.names))
    again = write_class(other, classes, form)
    assert read_class(again, classes, "x")[0] == other


PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
TURNS = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "good"}]


@pytest.mark.parametrize(
    ("row", "config"),
    [
        (PAIR, {"columns": {"prompt": "prompt", "response": "chosen"}, "shape": "prompt"}),
        ({"question": "p", "chosen": "good", "rejected": "bad"}, {"columns": {"prompt": "question", "response": "chosen"}, "shape": "prompt"}),
        ({"chosen": TURNS, "rejected": TURNS}, {"columns": {"messages": "chosen"}, "shape": "messages"}),
    ],
)  # fmt: skip
def test_preference_pairs_are_told_what_can_be_cleaned_and_it_works(
    tmp_path: Path, row: dict[str, Any], config: dict[str, Any]
) -> None:
    with pytest.raises(SourceError, match="preference pairs") as error:
        source(tmp_path, [row]).rows.layout  # noqa: B018
    told = str(error.value)
    assert f"shape: {config['shape']}" in told
    listed = ", ".join(f"{role}: {column}" for role, column in config["columns"].items())
    assert f"columns: {{{listed}}}" in told
    made = source(tmp_path, [row], **config)
    rows, gone = read(made)
    assert not gone
    assert rows[0].sample.response == "good"
    assert made.restore(rows[0].sample)["rejected"] == row["rejected"]


@pytest.mark.parametrize("row", [{"text": "words"}, {"id": "1", "content": "words", "url": "x"}])
def test_plain_text_is_told_what_can_be_done(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(SourceError, match=r"plain text .* holds no answers") as error:
        source(tmp_path, [row]).rows.layout  # noqa: B018
    assert "shape: label" in str(error.value)
