"""The data sets of the page of tokens on real texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.real_tokens.data import LONGEST, SHORTEST, DataSet, Files, Sizes, find
from nfilter.api.errors import SourceError
from tests.benchmarks.text_sets import SIZES, make, text


def test_data_sets_are_told_by_their_shape(tmp_path: Path):
    given = make(tmp_path)
    found, others = find(given, SIZES)
    assert [one.name for one in found] == ["sums", "tasks"]
    assert others == {"else": "it has neither train.jsonl and test.jsonl nor one .json file"}
    assert [one.name for one in find(given, SIZES, ["tasks"])[0]] == ["tasks"]
    with pytest.raises(SourceError, match=r"no data set nobody \(else: it has neither"):
        find(given, SIZES, ["nobody"])
    with pytest.raises(SourceError, match="make evidence-real-tokens DATA=FOLDER"):
        find(tmp_path / "none", SIZES)


def test_only_rows_that_fit_are_drawn_and_none_is_drawn_twice(sets: list[DataSet]):
    for one in sets:
        parts = [one.train(0), one.dev, one.test]
        assert [len(part) for part in parts] == [8, 3, 4]
        asked = [pair.question for part in parts for pair in part]
        assert len(set(asked)) == len(asked)
        for pair in (*one.pool, *one.dev, *one.test):
            assert len(pair.question) + len(pair.answer) <= LONGEST
            assert len(pair.answer) >= SHORTEST
        assert one.train(0) == one.train(0) != one.train(1)
    sums, tasks = sets
    assert all(int(pair.question.split()[-1].rstrip("?")) >= 1000 for pair in sums.test)
    assert len(tasks.pool) == 30 - 3 - 4  # one file: what is tested on is taken out of it
    assert (sums.given, tasks.given) == (44, 30)


def test_an_input_stands_below_its_instruction(tmp_path: Path):
    rows = [{"instruction": f"Do {i}.", "input": "It.", "output": text(i)} for i in range(20)]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.json").write_text(json.dumps(rows))
    (one,), _ = find(tmp_path, SIZES)
    assert one.pool[0].question.endswith(".\n\nIt.")


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("sums/train.jsonl", '{"question": "x"}\n', r"train.jsonl:1: no row with the texts question, answer"),
        ("sums/test.jsonl", "{\n", r"test.jsonl: .*it has to be JSON in UTF-8"),
        ("tasks/all.json", '[{"instruction": "x", "output": "y"}]', r"all.json:1: no row with the texts instruction, input, output"),
        ("tasks/all.json", "[]", r"tasks: 0 rows to train .*--rows TRAIN,DEV,TEST"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, file: str, content: str, why: str):
    given = make(tmp_path)
    (given / file).write_text(content)
    with pytest.raises(SourceError, match=why):
        find(given, SIZES)


def test_a_separator_inside_a_text_ends_no_line(tmp_path: Path):
    given = make(tmp_path)
    file = given / "sums" / "train.jsonl"
    row = {"question": "Odd?", "answer": text(3) + "\u2028" + "end"}
    file.write_text(file.read_text() + json.dumps(row, ensure_ascii=False) + "\n")
    assert find(given, SIZES, ["sums"])[0][0].given == 45


def test_a_digest_says_what_is_read(tmp_path: Path):
    given = make(tmp_path)
    before = find(given, SIZES)[0][0].digest
    assert find(given, Sizes(9, 3, 4))[0][0].digest != before
    file = given / "sums" / "train.jsonl"
    file.write_text(file.read_text().replace("farmer", "butcher"))
    assert find(given, SIZES)[0][0].digest != before


def test_files_are_written_once(sets: list[DataSet], tmp_path: Path):
    files = Files(tmp_path / "data")
    file = files.train(sets[0], 1)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["answer"] for row in rows] == [pair.answer for pair in sets[0].train(1)]
    assert len({row["id"] for row in rows}) == 8
    before = file.stat().st_mtime_ns
    assert files.train(sets[0], 1).stat().st_mtime_ns == before
