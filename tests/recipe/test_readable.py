"""How many rows can be read and why not: counted, and told by init, check and lint alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfilter import Message, Row, Sample, Unreadable
from nfilter.cli import entry
from nfilter.recipe.readable import Readable, sampled

RECIPE = """\
answer: exact
models: {{student: {{use: hf, model: tiny}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples: [{{use: entp.purge}}]
arms: {arms}
"""
GOOD = {"question": "one plus one", "answer": "2"}
NO_ANSWER = {"question": "two plus two", "answer": None}
EMPTY = {"question": " ", "answer": "5"}


def _row(name: str) -> Row:
    return Row(Sample(name, (Message("user", "q"), Message("assistant", "a"))))


def test_reasons_are_counted_whatever_values_stand_in_them() -> None:
    found = Readable(
        [
            _row("a"),
            Unreadable(2, "the id 'x' is that of an earlier row", ""),
            Unreadable(3, "the field 'answer' is missing", ""),
            Unreadable(4, "the id 'y z' is that of an earlier row", ""),
            Unreadable(5, "the field 'question' is missing", ""),
            Unreadable(6, "the id 'it\\'s' is that of an earlier row", ""),
            Unreadable(17, "the id 'w' is that of an earlier row", ""),
        ]
    )
    assert [(reason.count, reason.lines) for reason in found.reasons()] == [
        (4, [2, 4, 6]),
        (1, [3]),
        (1, [5]),
    ]
    assert found.message(first=False) == (
        "1 of 7 rows can be read, 6 cannot: 4 because the id 'x' is that of an earlier row (lines 2, 4, 6, ...); "
        "1 because the field 'answer' is missing (line 3); 1 because the field 'question' is missing (line 5)"
    )


def test_what_is_told_of_few_rows_and_of_the_first_of_many() -> None:
    assert Readable([_row("a")]).message(first=False) == "its one row can be read"
    assert (
        Readable([_row("a"), _row("b")]).message(first=True)
        == "all of the first 2 rows can be read"
    )
    gone = [Unreadable(line, f"it is {'abcde'[line]} {'x' * line}", "") for line in range(5)]
    told = Readable(gone).message(first=True)
    assert told.startswith("none of the first 5 rows can be read: ")
    assert told.endswith("; 2 for other reasons")
    rows, more = sampled(_row(str(number)) for number in range(200))
    assert (len(rows), more) == (200, False)
    rows, more = sampled(_row(str(number)) for number in range(201))
    assert (len(rows), more) == (200, True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(home: Path, rows: list[object], arms: str = "[]") -> None:
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "r.yaml").write_text(RECIPE.format(arms=arms))


def test_check_and_init_say_when_no_row_can_be_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(home, [NO_ANSWER, NO_ANSWER, EMPTY])
    why = (
        "none of 3 rows can be read: 2 because the field 'answer' is missing (lines 1, 2); "
        "1 because the field 'question' is empty (line 3)"
    )
    assert entry(["check", "r.yaml"]) == 4
    assert f"r.yaml:3: source: {why}; say which columns" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        entry(["check", "r.yaml", "--json"])
    assert ended.value.code == 4
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert why in fault
    assert entry(["init", "--data", "rows.jsonl", "--out", "new.yaml"]) == 4
    assert f"rows.jsonl: {why}" in capsys.readouterr().err
    assert not (home / "new.yaml").exists()


def test_a_fault_of_the_recipe_beside_one_of_the_data_is_a_fault_of_the_recipe(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(home, [NO_ANSWER], arms="[cleaned]")
    assert entry(["check", "r.yaml"]) == 2
    told = capsys.readouterr().err
    assert "2 faults" in told
    assert "its one row cannot be read: the field 'answer' is missing (line 1)" in told
    assert "arm 'cleaned' is trained" in told


def test_check_init_and_lint_warn_where_many_rows_cannot_be_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(home, [GOOD, NO_ANSWER, EMPTY, NO_ANSWER, NO_ANSWER])
    why = "1 of 5 rows can be read, 4 cannot: 3 because the field 'answer' is missing (lines 2, 4, 5); 1 because the field 'question' is empty (line 3)"
    assert entry(["check", "r.yaml"]) == 0
    told = capsys.readouterr().out
    assert f"warning: source: {why}\n" in told
    assert "no faults, 1 warning" in told
    assert entry(["check", "r.yaml", "--json"]) in {0, None}
    assert json.loads(capsys.readouterr().out)["warnings"] == [f"source: {why}"]
    assert entry(["init", "--data", "rows.jsonl", "--out", "new.yaml"]) == 0
    assert f"data: {why}\n" in capsys.readouterr().out
    assert entry(["lint", "r.yaml"]) == 0
    told = capsys.readouterr().out
    assert "No warnings" not in told
    assert why in " ".join(told.split())


def test_nothing_is_warned_of_where_all_rows_can_be_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(home, [GOOD] * 300)
    assert entry(["check", "r.yaml"]) == 0
    told = capsys.readouterr().out
    assert "source: all of the first 200 rows can be read\n" in told
    assert "warning" not in told
    assert "r.yaml: no faults; `nfilter run r.yaml` runs 1 stage" in told


def test_check_names_what_rows_hold_and_no_sample_carries(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "audio": {"id": "x"}},
    ]
    _write(home, [{"messages": turns}])
    assert entry(["check", "r.yaml"]) == 0
    told = capsys.readouterr().out
    assert "warning: source: 1 of 1 readable row holds " in told
    assert "audio" in told
