"""The data sets of the page of real data."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from benchmarks.real_evidence.data import DataSet, Files, find, flipped, held_out, trusted
from nfilter.api.errors import SourceError
from tests.benchmarks.news_sets import N, make, rows_of


def test_labels_are_flipped_by_the_published_rule():
    rows = rows_of(N)
    for seed, percent in ((0, 30), (3, 70)):
        labels = flipped(rows, percent, seed)
        wrong = [i for i, row in enumerate(rows) if labels[i] != row.answer]
        assert wrong == sorted(random.Random(seed).sample(range(N), int(N * (percent / 100))))
        assert set(labels) <= set("ABC")
    assert flipped(rows, 50, 1) != flipped(rows, 50, 2)
    assert flipped(rows, 50, 1) == flipped(rows, 50, 1)


def test_seed_0_has_the_published_labels_and_others_are_drawn(one: DataSet):
    swapped = DataSet(one.name, one.truth, {50: tuple("A" * N)}, one.test)
    assert swapped.labels(50, 0) == tuple("A" * N)
    assert swapped.labels(50, 1) == flipped(one.truth, 50, 1)
    assert one.by_rule(50)
    assert not swapped.by_rule(50)


def test_folders_that_are_no_data_set_are_named_with_why(tmp_path: Path):
    given = make(make(tmp_path), "other", (50,))
    (given / "dolly").mkdir()
    (given / "dolly" / "test.csv").write_text("x\n")
    (given / "README.md").write_text("x")
    sets, others = find(given)
    assert [(each.name, sorted(each.noisy)) for each in sets] == [
        ("news", [30, 50, 70]),
        ("other", [50]),
    ]
    assert others == {"dolly": "it has no labeled.csv, no noisy/noisyNN.csv"}
    assert [each.name for each in find(given, ["other"])[0]] == ["other"]
    with pytest.raises(SourceError, match=r"no data set nobody \(dolly: it has no labeled.csv"):
        find(given, ["nobody"])


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("labeled.csv", "question,answer\nx,A\n", r"labeled.csv:1: no column options"),
        ("test.csv", 'question,options,answer\nx,"[1, 2]",C\n', r"test.csv:2: the answer 'C' is none of A, B"),
        ("test.csv", "question,options,answer\nx,a or b,A\n", r"test.csv:2: options 'a or b' are no JSON list"),
        ("test.csv", "question,options,answer\nx\n", r"test.csv:2: the row has not as many cells"),
        ("test.csv", "question,options,answer\n", r"test.csv: it holds no rows"),
        ("noisy/noisy50.csv", 'question,options,answer\nx,"[1, 2]",A\n', r"not those of .*labeled.csv, row by row"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, file: str, text: str, why: str):
    given = make(tmp_path)
    (given / "news" / file).write_text(text)
    with pytest.raises(SourceError, match=why):
        find(given)


def test_no_folder_is_an_error_that_says_what_to_type(tmp_path: Path):
    with pytest.raises(SourceError, match=r"no such folder; .*make evidence-real DATA=FOLDER"):
        find(tmp_path / "none")
    with pytest.raises(SourceError, match=r"no data set \(it holds no folder\)"):
        find(tmp_path)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_what_cells_read(one: DataSet, tmp_path: Path):
    files = Files(tmp_path / "data")
    noisy = read(files.train(one, 50, 1))
    assert [row["answer"] for row in noisy] == list(flipped(one.truth, 50, 1))
    assert [row["truth"] for row in noisy] == [row.answer for row in one.truth]
    assert "trusted" not in noisy[0]
    assert len({row["row"] for row in noisy}) == N
    sure = trusted(N, 1)
    assert len(sure) == N  # a set of fewer than a hundred rows has them all
    checked = read(files.checked(one, 50, 1))
    assert all(row["answer"] == row["truth"] and row["trusted"] == "true" for row in checked)
    fit, dev = map(read, files.dev(one))
    ids = {row["row"] for row in fit}, {row["row"] for row in dev}
    assert ids[0] | ids[1] == {row["row"] for row in noisy}
    assert not ids[0] & ids[1]
    assert len(ids[1]) == len(held_out(N)) == 10
    test = read(files.test(one))
    assert not {row["question"] for row in test} & {row["question"] for row in noisy}
    given = files.as_given(one, 50, 0)
    assert read(given)[0].keys() == {"question", "options", "answer"}  # no truth
