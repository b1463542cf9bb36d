"""Checking by hand: the sheet, and what its answers say of a run."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter.api.errors import DamageError, StoreError
from nfilter.cli import entry
from nfilter.report import audit as subject
from nfilter.report import sheet
from nfilter.store.files import write_sealed
from nfilter.store.samples import open_samples

RUN = Path("runs/sums")
SHEET = RUN / "audit.csv"


def rows() -> list[dict[str, str]]:
    with SHEET.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(answers: dict[str, str], delimiter: str = ",") -> None:
    """Write the answers as a spreadsheet would."""
    found = rows()
    with SHEET.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows({**row, "label_is_right": answers.get(row["id"], "")} for row in found)


def truth() -> dict[str, str]:
    lines = (RUN / "truth.jsonl").read_text().splitlines()
    return {json.loads(line)["id"]: json.loads(line)["truth"] for line in lines}


def judged() -> dict[str, str]:
    true = truth()
    return {row["id"]: "y" if row["label"] == true[row["id"]] else "n" for row in rows()}


# --- the sheet -----------------------------------------------------------------------------------------------


@given(st.text())
def test_guarding_is_reversible_and_leaves_no_formula(text):
    assert sheet.guard(text).removeprefix("'") == text
    assert not sheet.guard(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_formulas_are_neutralised_and_their_rows_still_found(tmp_path):
    ids = ["=1+1", "+x", "-5", "@a", "'quoted", "plain", "\tq"]
    path = tmp_path / "audit.csv"
    sheet.write(
        path, ["id", "question", "label_is_right"], [[i, "=HYPERLINK(1)", "y"] for i in ids]
    )
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [row[:2] for row in csv.reader(file)][1:]
    assert all(not cell.startswith(("=", "+", "-", "@", "\t")) for row in cells for cell in row)
    assert sheet.answers(path, ids) == dict.fromkeys(ids, True)
    # A spreadsheet that eats the apostrophe still leaves an id that is known.
    path.write_text(path.read_text(encoding="utf-8-sig").replace("'-5", "-5"), encoding="utf-8")
    assert sheet.answers(path, ids)["-5"] is True


def test_a_sheet_that_is_no_csv_is_named(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text('id,label_is_right\na,"' + "x" * 200_000)
    with pytest.raises(StoreError, match=r"audit\.csv: not CSV \(field larger .* save it as CSV"):
        sheet.answers(path, ["a"])


def test_lines_at_fault_are_all_named(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text(
        'id,question,label_is_right\na,"two\nlines",y\nb,x,maybe\nzz,x,n\na,x,n\nc,x,\n'
    )
    with pytest.raises(StoreError) as caught:
        sheet.answers(path, ["a", "b", "c"])
    assert str(caught.value).splitlines() == [
        f"{path}:4: label_is_right is 'maybe'; write y or n, or leave it empty",
        f"{path}:5: no drawn row has the id 'zz'; known: a, b, c",
        f"{path}:6: the id 'a' occurs twice; remove one of the lines",
    ]


@pytest.mark.types("the column «» is missing; put it back")
def test_a_lost_column_and_another_encoding_are_errors(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text("id,question\na,b\n")
    with pytest.raises(StoreError, match="the column 'label_is_right' is missing"):
        sheet.answers(path, ["a"])
    path.write_text("id,question,label_is_right\na,b,y\n")
    assert sheet.answers(path, ["a"]) == {"a": True}
    path.write_bytes("id,label_is_right\nä,y\n".encode("latin-1"))
    with pytest.raises(StoreError, match="save it as CSV UTF-8"):
        sheet.answers(path, ["ä"])


@pytest.mark.parametrize(
    ("said", "right"), [("y", True), ("Yes ", True), ("1", True), ("N", False), ("FALSE", False)]
)
def test_words_for_yes_and_no(said, right, tmp_path):
    path = tmp_path / "audit.csv"
    sheet.write(path, ["id", "label_is_right"], [["a", said]])
    assert sheet.answers(path, ["a"]) == {"a": right}


# --- a run ---------------------------------------------------------------------------------------------------


def test_the_sheet_is_blind(world, shown, golden):
    result = subject.audit(RUN, n=12)
    assert (result.status, result.drawn, result.population, result.flagged) == ("drawn", 12, 26, 8)
    found = rows()
    assert list(found[0]) == ["id", "question", "label", "label_is_right"]
    assert {row["label_is_right"] for row in found} == {""}
    # The label is the one that came, also where a stage put another in its place.
    original = {
        json.loads(line)["id"]: json.loads(line)["messages"][-1][1]
        for path in (RUN / "00-source").glob("chunk-*")
        for line in path.read_text().splitlines()
    }
    assert all(row["label"] == original[row["id"]] for row in found)
    flags = [row["id"] in flagged_ids() for row in found]
    assert flags != sorted(flags)
    assert flags != sorted(flags, reverse=True)
    golden("report/audit-drawn.txt", shown(subject.render, result))


def flagged_ids() -> set[str]:
    return {
        json.loads(line)["id"]
        for path in (RUN / "05-story.select").glob("chunk-*")
        for line in path.read_text().splitlines()
        if json.loads(line)["notes"].get("verdict", {}).get("flagged")
    }


def test_new_samples_are_not_drawn(world):
    subject.audit(RUN, n=50)
    assert len(rows()) == 26
    assert not [row for row in rows() if row["id"].startswith("twin-")]


def test_an_open_sheet_shows_new_label_and_reason(world):
    subject.audit(RUN, n=50, blind=False)
    by_id = {row["id"]: row for row in rows()}
    assert list(next(iter(by_id.values()))) == [
        "id",
        "question",
        "label",
        "new_label",
        "reason",
        "label_is_right",
    ]
    row = next(row for row in by_id.values() if row["question"] == "2+4")
    assert (row["label"], row["new_label"]) == ("7", "6")
    assert row["reason"] == "drop: a new label with an even sum is not trusted"


def test_answers_become_figures(world, shown, golden):
    subject.audit(RUN, n=12)
    fill(judged())
    result = subject.audit(RUN, n=12)
    assert (result.status, result.answered) == ("answered", 12)
    # The flags of this run are exactly the wrong labels.
    assert result.estimates.precision.value == result.estimates.recall.value == 1.0
    assert (result.mistaken, result.missed) == ([], [])
    record = json.loads((RUN / "audit.json").read_text())
    assert record["estimates"]["noise_rate"]["value"] == result.estimates.noise_rate.value
    assert "beta-binomial" in record["method"]
    # The ends of the intervals are draws of numpy's, which may change with its version.
    said = " ".join(shown(subject.render, result).split())
    said = re.sub(r"interval [0-9.]+% to [0-9.]+%", "interval LOW to HIGH", said)
    golden("report/audit-answered.txt", said.replace(". ", ".\n") + "\n")
    # Once more is the same: the record of the draw is still there.
    assert subject.audit(RUN, n=12) == result


def test_a_census_by_hand_finds_the_true_noise_rate(world):
    subject.audit(RUN, n=50)
    fill(judged())
    found = subject.audit(RUN).estimates.noise_rate
    assert (found.value, found.low, found.high) == pytest.approx((8 / 26, 8 / 26, 8 / 26))


def test_wrong_flags_are_named(world):
    subject.audit(RUN, n=50)
    answers = judged()
    flagged = sorted(row["id"] for row in rows() if row["id"] in flagged_ids())
    rest = sorted(set(answers) - set(flagged))
    fill({**answers, flagged[0]: "y", rest[0]: "n"})
    result = subject.audit(RUN)
    assert (result.mistaken, result.missed) == ([flagged[0]], [rest[0]])
    assert result.estimates.precision.value == pytest.approx(7 / 8)
    assert result.estimates.recall.value == pytest.approx(7 / 8)


def test_a_sheet_with_an_answer_is_never_written_again(world):
    subject.audit(RUN, n=12)
    first = rows()[0]["id"]
    fill({first: "y"})
    kept = SHEET.read_bytes()
    result = subject.audit(RUN, n=20, seed=5)
    assert SHEET.read_bytes() == kept
    assert (result.drawn, result.answered) == (12, 1)
    assert result.notes[0] == (
        "the sheet has answers, so it is kept: 12 rows with seed 0; --n 20 and --seed 5 are not used. Move audit.csv "
        "away to draw again"
    )
    assert "11 rows have no answer yet" in result.notes[1]
    assert len(subject.audit(RUN, n=12).notes) == len(subject.audit(RUN).notes) == 1
    assert "--n 5 is not used" in subject.audit(RUN, n=5).notes[0]
    fill({first: "what"})
    kept = SHEET.read_bytes()
    with pytest.raises(StoreError, match="label_is_right is 'what'"):
        subject.audit(RUN, n=20)
    assert SHEET.read_bytes() == kept


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_rows_are_added_to_a_sheet_with_answers(world, delimiter, shown):
    before = subject.audit(RUN, n=12)
    name = subject.drawn_rows(RUN).name
    fill(judged(), delimiter=delimiter)
    kept = SHEET.read_bytes()
    command = re.search(r"narrower intervals +(nfilter audit \S+ --n 24)", shown(subject.render, subject.audit(RUN)))  # fmt: skip
    assert command is not None
    assert entry(command[1].split()[1:]) == 0
    after = subject.audit(RUN)
    assert (after.drawn, after.answered, after.population) == (24, 12, before.population)
    assert SHEET.read_bytes().startswith(kept)
    with SHEET.open(encoding="utf-8-sig", newline="") as file:
        added = list(csv.DictReader(file, delimiter=delimiter))
    assert len({row["id"] for row in added}) == len(added) == 24
    assert [row["id"] for row in added] == list(subject.drawn_rows(RUN).ids)
    assert {row["label_is_right"] for row in added[12:]} == {""}
    assert all(row["question"] and row["label"] for row in added)
    # The order goes on: decisions that name the draw still count.
    assert subject.drawn_rows(RUN).name == name
    whole = SHEET.read_bytes()
    subject.audit(RUN, n=24)
    assert SHEET.read_bytes() == whole
    # A process that was killed before it added the lines.
    SHEET.write_bytes(kept)
    subject.audit(RUN, n=24)
    assert SHEET.read_bytes() == whole
    assert subject.audit(RUN, n=500).drawn == 26
    assert "narrower intervals" not in shown(subject.render, subject.audit(RUN))


def test_the_draw_of_a_changed_run_is_not_extended(world):
    subject.audit(RUN, n=12)
    fill(judged())
    (RUN / "manifest.json").unlink()
    write_sealed(RUN / "05-story.select" / "fingerprint", {"of": "another"})
    found = subject.audit(RUN, n=20)
    assert found.drawn == 12
    assert "--n 20 is not used" in found.notes[0]


def test_an_empty_sheet_is_drawn_anew(world):
    subject.audit(RUN, n=12)
    before = SHEET.read_bytes()
    subject.audit(RUN, n=12)
    assert SHEET.read_bytes() == before
    subject.audit(RUN, n=14)
    assert len(rows()) == 14


def test_semicolons_of_a_spreadsheet_are_read(world):
    subject.audit(RUN, n=12)
    fill(judged(), delimiter=";")
    assert subject.audit(RUN).answered == 12


@pytest.mark.types("of that time. Move «» away")
def test_a_changed_run_is_said_to_have_changed(world):
    subject.audit(RUN, n=12)
    fill(judged())
    artefact = open_samples(RUN / "05-story.select")
    write_sealed(artefact.directory / "fingerprint", {"of": "another"})
    with pytest.raises(
        DamageError, match=r"05-story\.select: is not the artefact of the finished run"
    ):
        subject.audit(RUN)
    (RUN / "manifest.json").unlink()
    assert "the run has changed since the rows were drawn" in subject.audit(RUN).notes[0]
    SHEET.rename(RUN / "away.csv")
    assert subject.audit(RUN, n=12).notes == []


@pytest.mark.types(
    "«»: is missing, and without it the answers", "«»: «», and without it the answers"
)
def test_answers_without_their_draw_are_an_error(world):
    subject.audit(RUN, n=12)
    fill(judged())
    (RUN / "audit.json").unlink()
    with pytest.raises(StoreError, match=r"without it the answers in .* cannot be used"):
        subject.audit(RUN)
    SHEET.rename(RUN / "away.csv")
    subject.audit(RUN, n=12)
    fill(judged())
    (RUN / "audit.json").write_text((RUN / "audit.json").read_text().replace("1", "2", 1))
    with pytest.raises(StoreError, match=r"has other .* or move audit\.csv away to draw again"):
        subject.audit(RUN)
    SHEET.rename(RUN / "away.csv")
    assert subject.audit(RUN, n=12).drawn == 12


def test_no_verdicts_and_groups_are_errors(world, written):
    with pytest.raises(StoreError, match="a group with one run per seed"):
        subject.audit(Path("runs/group"))
    for path in RUN.glob("*/chunk-*.jsonl"):
        path.write_text(path.read_text().replace('"noise_score"', '"other"'))
    written(RUN)
    with pytest.raises(StoreError, match="no stage wrote a verdict"):
        subject.audit(RUN)
    assert not SHEET.exists()
