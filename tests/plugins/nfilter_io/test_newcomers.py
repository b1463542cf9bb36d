"""Rows as well-known datasets and data frames have them: read right, or refused with what to type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nfilter import Row, SourceError, Unreadable
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load
from nfilter_io.sources import JsonLines

QUESTION = {"id": "1", "question": "a metal?"}


def only(source: Any) -> Row:
    (row,) = source.read()
    assert isinstance(row, Row), row
    return row


def columns(source: Any) -> Mapping[str, str]:
    return source.rows.layout.describe()  # type: ignore[no-any-return]


# --- options and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "answer", "cell", "other"),
    [
        (("choice_0", "choice_1", "choice_2"), "label", 0, 2),
        (("choice1", "choice2", "choice3"), "answer", "choice_of", None),
        (("option1", "option2", "option3"), "correct_option", 3, 1),
        (("opa", "opb", "opc"), "cop", 0, 2),
        (("option_a", "option_b", "option_c"), "answer", "A", "C"),
        (("Option A", "Option B", "Option C"), "answer", "iron", "gold"),
        (("ending0", "ending1", "ending2"), "label", 0, 2),
        (("A", "B", "C"), "answer", "A", "C"),
    ],
)
def test_options_in_columns_of_their_own(
    names: tuple[str, ...], answer: str, cell: Any, other: Any, make: Any
) -> None:
    if other is None:
        cell, other = "iron", "gold"
    row = {**QUESTION, **dict(zip(names, ("iron", "wood", "gold"), strict=True)), answer: cell}
    source = make("jsonl", [row])
    assert columns(source)["options"] == ", ".join(names)
    read = only(source).sample
    assert read.query == "a metal?\nA. iron\nB. wood\nC. gold"
    assert read.response == ("C" if cell == 3 else "A")
    assert source.restore(read) == row
    new = "A" if cell == 3 else "C"
    assert source.restore(read.relabel(new, "a test"))[answer] == other


@pytest.mark.parametrize("key", ["label", "key"])
def test_options_as_a_list_of_objects(key: str, make: Any) -> None:
    options = [{key: "1", "text": "iron"}, {key: "2", "text": "wood"}]
    source = make("jsonl", [{**QUESTION, "choices": options, "answerKey": "2"}])
    read = only(source).sample
    assert (read.query, read.response) == ("a metal?\nA. iron\nB. wood", "B")
    restored = source.restore(read.relabel("A", "a test"))
    assert (restored["choices"], restored["answerKey"]) == (options, "1")


@pytest.mark.parametrize(
    ("cell", "new"), [("B) tin", "A) iron"), ("B. tin", "A. iron"), ("(B) tin", "(A) iron"), ("B: tin ", "A: iron "), ("B - tin", "A - iron")]
)  # fmt: skip
def test_a_letter_with_the_text_of_its_option(cell: str, new: str, make: Any) -> None:
    source = make("jsonl", [{**QUESTION, "options": ["iron", "tin"], "answer": cell}])
    read = only(source).sample
    assert read.response == "B"
    assert source.restore(read)["answer"] == cell
    assert source.restore(read.relabel("A", "a test"))["answer"] == new


def test_a_letter_with_the_text_of_another_option_is_no_answer(make: Any) -> None:
    good = {"question": "a?", "options": ["iron", "tin"], "answer": "A) iron"}
    _, bad = make("jsonl", [good, {**good, "answer": "B) iron"}]).read()
    assert isinstance(bad, Unreadable)
    assert "names none of the options" in bad.error


def test_indices_of_options_with_a_point(make: Any) -> None:
    rows = [{"question": f"{i}?", "options": '["iron", "tin"]', "answer": cell} for i, cell in enumerate(("0.0", "1.0"))]  # fmt: skip
    source = make("csv", rows)
    first, second = source.read()
    assert (first.sample.response, second.sample.response) == ("A", "B")
    assert source.restore(first.sample)["answer"] == "0.0"
    assert source.restore(first.sample.relabel("B", "a test"))["answer"] == "1.0"


# --- questions about passages ----------------------------------------------------------------------------------------

PASSAGE = "Built in 1889 by Eiffel, and opened in 1889."
SQUAD = {"id": "1", "title": "T", "context": PASSAGE, "question": "When?", "answers": {"text": ["1889", "in 1889"], "answer_start": [9, 6]}}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_squad(kind: str, make: Any) -> None:
    source = make(kind, [SQUAD])
    read = only(source).sample
    assert (read.query, read.response) == (f"When?\n\n{PASSAGE}", "1889")
    assert source.restore(read) == SQUAD
    by = source.restore(read.relabel("Eiffel", "a test"))
    assert by["answers"] == {"text": ["Eiffel"], "answer_start": [17]}
    none = source.restore(read.relabel("in spring", "a test"))
    assert none["answers"] == {"text": ["in spring"], "answer_start": []}


def test_a_question_without_an_answer_is_told(make: Any) -> None:
    empty = {**SQUAD, "id": "2", "answers": {"text": [], "answer_start": []}}
    _, bad = make("jsonl", [SQUAD, empty]).read()
    assert isinstance(bad, Unreadable)
    assert bad.error == "the field 'answers' has no answer"


def test_boolean_answers(make: Any) -> None:
    row = {"id": "1", "question": "is it", "title": "T", "answer": True, "passage": "It is."}
    source = make("jsonl", [row])
    read = only(source).sample
    assert (read.query, read.response) == ("is it\n\nIt is.", "true")
    assert source.restore(read) == row
    assert source.restore(read.relabel("false", "a test"))["answer"] is False
    (truth,) = make("jsonl", [{**row, "gt": False}], truth="gt").read()
    assert truth.truth == "false"


def test_pubmedqa(make: Any) -> None:
    row = {"pubid": 1, "question": "Does it?", "context": {"contexts": ["It did.", "Twice."], "labels": ["A", "B"]}, "long_answer": "Yes.", "final_decision": "yes"}  # fmt: skip
    source = make("jsonl", [row])
    read = only(source).sample
    assert (read.query, read.response) == ("Does it?\n\nIt did.\nTwice.", "yes")
    restored = source.restore(read.relabel("no", "a test"))
    assert {**restored, "final_decision": "yes"} == {"id": read.id, **row}


def test_a_usual_name_comes_before_a_rare_one(make: Any) -> None:
    row = {"question": "a", "answer": "b", "answers": ["b", "c"]}
    assert columns(make("jsonl", [row]))["response"] == "answer"


# --- preferences in OpenAI's format ----------------------------------------------------------------------------------


def test_preferences_of_openai(make: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    row = {
        "id": "1",
        "input": {"messages": [{"role": "user", "content": "2+2?"}], "tools": [tool], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": "4"}],
        "non_preferred_output": [{"role": "assistant", "content": "5"}],
    }  # fmt: skip
    source = make("jsonl", [row])
    read = only(source)
    sample = read.sample
    assert (sample.query, sample.response, sample.rejected.content) == ("2+2?", "4", "5")  # type: ignore[union-attr]
    assert [dict(each) for each in sample.tools] == [tool]
    assert read.not_carried == ()
    assert source.restore(sample) == row


# --- missing values and ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_nan_is_a_missing_value(kind: str, make: Any) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2], "note": float("nan"), "deep": [{"x": float("nan")}]} for i in range(6)]  # fmt: skip
    source = make(kind, rows)
    read = list(source.read())
    assert all(isinstance(row, Row) for row in read)
    restored = source.restore(read[0].sample)
    assert (restored["note"], restored["deep"]) == (None, [{"x": None}])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_nan_is_no_class_and_numbers_with_a_point_are_indices(kind: str, make: Any) -> None:
    """A data frame writes integers as 1.0 where one is missing."""
    cells = [0.0, 1.0, float("nan"), 1.0, 0.0, 1.0]
    rows = [{"text": f"t {i}", "label": cell} for i, cell in enumerate(cells)]
    source = make(kind, rows, shape="label")
    assert columns(source)["classes"] == "0.0, 1.0 (numbers only: labels: [NAME, ...] names them)"
    (missing,) = (row for row in source.read() if isinstance(row, Unreadable))
    assert missing.error == "the field 'label' is missing"
    named = make(kind, rows, labels=["bad", "good"])
    first, second, *_ = named.read()
    assert (first.sample.response, second.sample.response) == ("bad", "good")
    assert named.restore(first.sample.relabel("good", "a test"))["label"] == 1.0


def test_indices_with_a_point_in_csv(make: Any) -> None:
    source = make("csv", [{"text": "a", "label": "0.0"}, {"text": "b", "label": "1.0"}], labels=["x", "y"])  # fmt: skip
    first, second = source.read()
    assert (first.sample.response, second.sample.response) == ("x", "y")
    assert source.restore(first.sample)["label"] == "0.0"
    assert source.restore(first.sample.relabel("y", "a test"))["label"] == "1.0"


@pytest.mark.types("identifies no row, rename it, or type `id: COLUMN` for one that does")
def test_an_id_of_several_rows_is_told_with_a_remedy(make: Any) -> None:
    rows = [{"id": i // 2, "key": f"k{i}", "prompt": f"{i}?", "response": "x"} for i in range(4)]
    bad = [row for row in make("jsonl", rows).read() if isinstance(row, Unreadable)]
    assert len(bad) == 2
    assert bad[0].error == (
        "the id '0' was used by an earlier row; if the column 'id' identifies no row, rename it, or type `id: COLUMN` for one that does"
    )
    assert all(isinstance(row, Row) for row in make("jsonl", rows, id="key").read())


# --- columns of other names, scores and headers ----------------------------------------------------------------------

TEXTS = [f"the number of this text is {i}" for i in range(40)]


@pytest.mark.parametrize("names", [("question", "label"), ("v2", "v1"), ("text", "emotions"), ("Tweet", "Mood")])  # fmt: skip
def test_one_column_of_texts_and_one_of_few_values_are_a_label_set(
    names: tuple[str, str], make: Any
) -> None:
    rows = [
        {"idx": i, names[1]: ("ham", "spam")[i % 2], names[0]: text} for i, text in enumerate(TEXTS)
    ]
    found = columns(make("jsonl", rows))
    assert (found["shape"], found["text"], found["label"]) == ("label", *names)


@pytest.mark.parametrize(
    "rows",
    [
        [{"q": text, "a": str(i)} for i, text in enumerate(TEXTS)],  # no value twice
        [{"q": f"{i}+1", "a": str(i % 3)} for i in range(40)],  # no texts
        [{"q": TEXTS[i % 4], "a": str(i % 2)} for i in range(40)],  # texts that repeat
        [{"q": text, "a": "x"} for text in TEXTS],  # one class
        [{"q": text, "a": "xy"[i % 2], "b": "z"} for i, text in enumerate(TEXTS)],
        [{"q": text, "a": "xy"[i % 2]} for i, text in enumerate(TEXTS[:10])],
    ],
    ids=["distinct", "short", "copies", "one class", "three columns", "few rows"],
)
def test_other_pairs_of_columns_are_asked_for(rows: list[dict[str, Any]], make: Any) -> None:
    with pytest.raises(SourceError, match="the shape of the rows is unknown"):
        list(make("jsonl", rows).read())


@pytest.mark.types("scores are no classes; write a column with a class for each row")
def test_scores_are_no_classes(make: Any) -> None:
    rows = [{"text": text, "label": 0.01 * (i % 30)} for i, text in enumerate(TEXTS)]
    with pytest.raises(SourceError, match="'label' has decimal numbers: scores are no classes; write a column"):  # fmt: skip
        list(make("jsonl", rows).read())
    classes = [{**row, "label": "high" if row["label"] > 0.1 else "low"} for row in rows]
    assert columns(make("jsonl", classes))["classes"] == "high, low"
    few = [{"text": text, "label": 0.5 * (i % 3)} for i, text in enumerate(TEXTS)]
    assert columns(make("jsonl", few))["classes"] == "0.0, 0.5, 1.0"


def test_a_label_of_many_values_is_told(make: Any) -> None:
    rows = [{"text": text, "label": f"sku {i}"} for i, text in enumerate(TEXTS)]
    with pytest.raises(SourceError, match="40 different values in 40 rows, too many to take them for classes unasked"):  # fmt: skip
        list(make("jsonl", rows).read())
    assert columns(make("jsonl", rows, shape="label"))["shape"] == "label"


def test_a_table_without_names_of_columns_is_told(over: Any) -> None:
    table = b"Which characteristic do all of these living things have in common?,iron,tin,B\nWhy?,a,b,A\n"  # fmt: skip
    with pytest.raises(SourceError, match="The first line seems to be a row: write a line with the names"):  # fmt: skip
        list(over("csv", table).read())
    first, _ = over("csv", b"question,A,B,answer\n" + table).read()
    assert first.sample.response == "B"


# --- remarks ---------------------------------------------------------------------------------------------------------


def said(folder: Path, rows: list[dict[str, Any]], make: Any, **config: Any) -> list[str]:
    source = make("jsonl", rows, **config)
    return list(JsonLines.remarks(source.rows._config, folder))


NAMES = ["World", "Sports", "Business"]


def test_a_copy_of_the_label_is_told(make: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "label": i % 3, "label_text": NAMES[i % 3], "n": i % 3 == 0} for i, text in enumerate(TEXTS)]  # fmt: skip
    (remark,) = said(tmp_path, rows, make)
    assert remark.startswith("the column 'label_text' says the same as 'label', and stays as it is where an answer is replaced: remove it, or")  # fmt: skip
    assert remark.endswith("; `columns: {label: label_text}` reads it in place of the numbers")
    named = make("jsonl", rows, columns={"label": "label_text"})
    assert columns(named)["classes"] == "Business, Sports, World"
    assert said(tmp_path, [{key: row[key] for key in ("text", "label")} for row in rows], make) == []  # fmt: skip


@pytest.mark.types("compares the run with them; if it has those to clean, type `columns: {«»: «»}`")
def test_a_column_that_may_be_the_truth_is_told(make: Any, tmp_path: Path) -> None:
    options = ["negative", "neutral", "positive"]
    rows = [{"question": text, "gt": options[i % 3], "options": options, "answer": "ABC"[(i + (i % 5 == 0)) % 3]} for i, text in enumerate(TEXTS)]  # fmt: skip
    (remark,) = said(tmp_path, rows, make)
    assert remark == (
        "the column 'gt' has the answer of 'answer' in 32 of 40 rows: if it has the true answers, `truth: gt` compares the run with "
        "them; if it has those to clean, type `columns: {answer: gt}`"
    )
    assert said(tmp_path, rows, make, truth="gt") == []
    truths = [row.truth for row in make("jsonl", rows, truth="gt").read()]
    assert truths == ["ABC"[i % 3] for i in range(40)]
    assert said(tmp_path, rows, make, columns={"answer": "gt"})[0].startswith("the column 'answer' has the answer of 'gt'")  # fmt: skip


def test_the_letter_beside_the_text_of_an_answer_is_told(make: Any, tmp_path: Path) -> None:
    rows = [{"question": text, "answer": f"{'xy'[i % 2]} {i}", "options": {"A": f"x {i}", "B": f"y {i}"}, "answer_idx": "AB"[i % 2]} for i, text in enumerate(TEXTS)]  # fmt: skip
    (remark,) = said(tmp_path, rows, make)
    assert remark.startswith("the column 'answer_idx' says the same as 'answer'")


def test_a_text_that_holds_the_response_is_told(make: Any, tmp_path: Path) -> None:
    rows = [{"instruction": text, "input": "", "output": f"a long answer to number {i}", "text": f"### {text}\n### a long answer to number {i}"} for i, text in enumerate(TEXTS)]  # fmt: skip
    (remark,) = said(tmp_path, rows, make)
    assert remark.startswith("the column 'text' says the same as 'output'")


def test_one_class_is_told(make: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "label": "ok"} for text in TEXTS]
    assert said(tmp_path, rows, make) == ["all rows have the same 'label', 'ok': no label can be told from another"]  # fmt: skip


def test_classes_that_differ_in_case_are_told(make: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "label": ("Good", "good", "bad")[i % 3]} for i, text in enumerate(TEXTS)]
    (remark,) = said(tmp_path, rows, make)
    assert remark == "the classes 'Good' and 'good' of 'label' differ only in case or white space, and count as two; write one of them into all rows"  # fmt: skip
    assert said(tmp_path, [{**row, "label": row["label"].lower()} for row in rows], make) == []


def test_columns_that_say_something_else_are_not_told(make: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "label": "ab"[i % 2], "score": i % 7, "topic": "xyz"[i % 3], "label_source": "web", "flag": i % 2 == 0 and i > 20} for i, text in enumerate(TEXTS)]  # fmt: skip
    assert said(tmp_path, rows, make, columns={"label": "label"}) == []


# --- classes of the test rows ----------------------------------------------------------------------------------------

RECIPE = """\
name: r
answer: label
models:
  student: {use: hf, model: tiny}
source: {use: jsonl, path: train.jsonl}
samples: []
arms: [vanilla]
encode: {model: student}
evaluate: {source: {use: jsonl, path: test.jsonl}}
"""


def checked(folder: Path, train: list[str], test: list[Any], more: str = "") -> tuple[Any, Path]:
    for name, labels in (("train", train), ("test", test)):
        rows = [{"text": f"{name} {i}", "label": label} for i, label in enumerate(labels * 3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "r.yaml"
    path.write_text(RECIPE.replace("path: test.jsonl", f"path: test.jsonl{more}"))
    plugins = load(block=())
    recipe = load_recipe(path, plugins)
    return check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)), path


def test_test_rows_without_some_classes_are_told(tmp_path: Path) -> None:
    report, _ = checked(tmp_path, ["bad", "good", "so so"], ["good", "bad"])
    assert report.faults == []
    (warning,) = (text for text in report.warnings if "classes" in text)
    assert warning == (
        "evaluate: the classes of the test rows are 'bad', 'good', and those of the source 'bad', 'good', 'so so', so the prompts of the "
        'test list others than those of training; `labels: ["bad", "good", "so so"]` in its source lists the same'
    )
    report, _ = checked(tmp_path, ["bad", "good", "so so"], ["good", "bad"], ', labels: ["bad", "good", "so so"]')  # fmt: skip
    assert not any("classes" in text for text in report.warnings)
    report, _ = checked(tmp_path, ["bad", "good"], ["good", "bad"])
    assert not any("classes" in text for text in report.warnings)


@pytest.mark.types("none is the same, and no answer can be right; name other test rows, or the same classes")  # fmt: skip
@pytest.mark.parametrize("labels", [[-1], [0, 1]])
def test_test_rows_with_other_classes_are_a_fault(tmp_path: Path, labels: list[int]) -> None:
    report, path = checked(tmp_path, ["bad", "good"], labels)
    (fault,) = report.faults
    assert fault.startswith(f"{path}:9: evaluate.source.path: the classes of the test rows are '{labels[0]}'")  # fmt: skip
    assert 'no answer can be right; name other test rows, or the same classes: `labels: ["bad", "good"]`' in fault  # fmt: skip
    if labels == [0, 1]:
        report, _ = checked(tmp_path, ["bad", "good"], labels, ', labels: ["bad", "good"]')
        assert report.faults == []
