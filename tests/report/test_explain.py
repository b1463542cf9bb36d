"""One row's story: what is told, what is never told, and what is said when there is nothing to tell."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nfilter.api.errors import StoreError
from nfilter.report import explain as subject
from nfilter.report import text
from nfilter.store.files import write_sealed

RUN = Path("runs/sums")
LONG = "+".join(["0"] * 40) + "+7"


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("relabelled", "5+6"),
        ("dropped", "2+4"),
        ("weighed", "22+24"),
        ("plain", "1+2"),
        ("encode", LONG),
    ],
)
def test_story(name, question, world, id_of, shown, golden):
    found = subject.explain(RUN, id_of(question))
    golden(f"report/explain-{name}.txt", shown(subject.render, found))


def test_story_of_a_new_sample_and_of_an_unreadable_line(world, id_of, shown, golden):
    parent = id_of("5+6")
    twin = subject.explain(RUN, f"twin-{parent}")
    assert twin.parents == (parent,)
    assert subject.explain(RUN, parent).children == [f"twin-{parent}"]
    golden("report/explain-new.txt", shown(subject.render, twin))
    unreadable = subject.explain(RUN, "line:4")
    assert (unreadable.status, unreadable.reason) == (
        "unreadable",
        "no 'question => answer' in this line",
    )
    golden("report/explain-unreadable.txt", shown(subject.render, unreadable))


def test_every_decision_and_note_of_the_artefacts_is_told(world, id_of):
    row = id_of("2+4")
    found = subject.explain(RUN, row)
    on_record = [
        (json.loads(line)["stage"], json.loads(line)["action"])
        for path in sorted(RUN.glob("[0-9][0-9]-*/decisions-*.jsonl"))
        for line in path.read_text().splitlines()
        if json.loads(line)["id"] == row
    ]
    told = [(event.stage, d["action"]) for event in found.events for d in event.decisions]
    assert (
        told
        == on_record
        == [
            ("02-story.check", "keep"),
            ("03-story.mend", "relabel"),
            ("05-story.select", "drop"),
        ]
    )
    assert {key for event in found.events for key in event.notes} == {"view", "verdict"}
    mend = found.events[2]
    assert (mend.label_before, mend.label_after) == ("7", "6")
    assert (found.label, found.label_now) == ("7", "6")
    assert (found.status, found.stage) == ("dropped", "05-story.select")


def test_dropped_when_encoded_is_known_from_dropped_jsonl(world, id_of):
    found = subject.explain(RUN, id_of(LONG))
    assert (found.status, found.stage) == ("dropped", "encode")
    assert "encode.max_length is 60" in found.reason


def test_truth_is_told_only_when_asked_for(world, id_of, shown, written):
    row = id_of("2+4")
    silent = subject.explain(RUN, row)
    assert "truth" not in json.dumps(subject.as_json(silent))
    assert "truth" not in shown(subject.render, silent)
    told = subject.explain(RUN, row, show_truth=True)
    assert subject.as_json(told)["truth"] == "6"
    assert "6 (hidden from stages)" in shown(subject.render, told)
    others = (RUN / "truth.jsonl").read_text().splitlines()
    only = [line if f'"{row}"' in line else "not decoded" for line in others]
    (RUN / "truth.jsonl").write_text("\n".join(only))
    written(RUN)
    assert subject.explain(RUN, row, show_truth=True).truth == "6"
    (RUN / "truth.jsonl").write_text("")
    written(RUN)
    unknown = subject.explain(RUN, row, show_truth=True)
    assert unknown.truth is None
    assert "the true label of this row is unknown" in shown(subject.render, unknown)


def test_calls_of_the_examination_are_not_about_the_row(world, id_of):
    # A row with a right label has the same id in the test source, so the journal has both kinds of calls for it.
    row = id_of("1+2")
    with closing(sqlite3.connect(RUN / "journal.db")) as journal, journal:
        stages = {
            stage for (stage,) in journal.execute("SELECT stage FROM uses WHERE sample = ?", (row,))
        }
    assert any(stage.startswith("evaluate.") for stage in stages)
    calls = [call for event in subject.explain(RUN, row).events for call in event.calls]
    assert [(call.stage, call.model, call.text) for call in calls] == [
        ("01-example.ask", "expert", "3")
    ]


def test_the_journal_is_only_read(world, id_of):
    row = id_of("1+2")
    before = {path.name: path.read_bytes() for path in RUN.glob("journal*")}
    subject.explain(RUN, row)
    assert {path.name: path.read_bytes() for path in RUN.glob("journal*")} == before
    # Another process has it open, with commits that are not in the file itself yet.
    other = sqlite3.connect(RUN / "journal.db", isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute(
        "INSERT INTO uses SELECT '02-story.check', sample, key, 'late', at + 1, NULL FROM uses WHERE sample = ?",
        (row,),
    )
    try:
        events = subject.explain(RUN, row).events
    finally:
        other.close()
    assert [call.model for call in events[1].calls] == ["late"] * len(events[1].calls) != []


def test_a_journal_that_is_gone_or_broken_is_a_gap_not_an_error(world, id_of, shown):
    row = id_of("1+2")
    (RUN / "journal.db").write_bytes(b"not a database, but long enough to be looked at as one" * 40)
    broken = subject.explain(RUN, row)
    assert "cannot be read" in broken.gaps[0]
    assert "run the same command again to repair it" in broken.gaps[0]
    (RUN / "journal.db").unlink()
    gone = subject.explain(RUN, row)
    assert gone.gaps == ["journal.db is missing, so no calls are listed"]
    assert "journal.db is missing" in shown(subject.render, gone)
    assert not (RUN / "journal.db").exists()


def test_a_run_that_has_not_ended_decides_nothing_yet(world, id_of):
    kept, dropped = id_of("1+2"), id_of("2+4")
    (RUN / "manifest.json").unlink()
    assert subject.explain(RUN, kept).status == "undecided"
    assert subject.explain(RUN, dropped).status == "dropped"
    # A chunk counts only with its decisions: without them the stage has not got to this row.
    for path in (RUN / "05-story.select").glob("d*"):
        path.unlink()
    half = subject.explain(RUN, dropped)
    assert half.status == "undecided"
    assert [event.stage for event in half.events][-1] == "04-story.twin"


def test_outputs_of_an_earlier_recipe_are_not_taken_for_this_one(world, id_of):
    write_sealed(RUN / "05-story.select" / "fingerprint", {"of": "another"})
    assert subject.explain(RUN, id_of("1+2")).status == "undecided"


def test_tokens_out_of_the_loss_are_told_with_who_took_them(world, id_of):
    found = subject.explain(RUN, id_of("5+6"))
    assert found.tokens == {
        "response": 3,
        "in_loss": 2,
        "masked_by": {"example.first": 1},
    }


def test_unknown_ids(world, id_of, written):
    row = id_of("5+6")
    near = row[:-1] + ("0" if row[-1] != "0" else "1")
    with pytest.raises(StoreError, match=f"no row '{near}'; did you mean '{row}'"):
        subject.explain(RUN, near)
    with pytest.raises(StoreError, match=f"did you mean 'twin-{row}'"):
        subject.explain(RUN, f"twim-{row}")
    with pytest.raises(
        StoreError, match=r"no unreadable row 'line:5'; quarantine.jsonl has line:4"
    ):
        subject.explain(RUN, "line:5")
    (RUN / "quarantine.jsonl").write_text("")
    written(RUN)
    with pytest.raises(StoreError, match="every line of the source was readable"):
        subject.explain(RUN, "line:4")


@pytest.mark.types(
    "name one that `nfilter run` wrote",
    "name the directory that `nfilter run` wrote",
    "name one of them, like",
)
def test_what_is_no_run_is_told_apart_from_a_group(world, id_of):
    with pytest.raises(
        StoreError,
        match=r"a group with one run per seed .*\(seed-0, seed-1\); name one of them, like .*seed-0",
    ):
        subject.explain(Path("runs/group"), "x")
    with pytest.raises(StoreError, match="no such directory"):
        subject.explain(Path("runs/nowhere"), "x")
    Path("runs/empty").mkdir()
    with pytest.raises(StoreError, match="not the directory of a run"):
        subject.explain(Path("runs/empty"), "x")
    for named in (Path("runs/group/seed-0"), RUN):
        assert subject.explain(named, id_of("5+6", named)).id == id_of("5+6", named)


def test_near_ids_are_few_however_many_there_are():
    ids = (f"row-{number}" for number in range(50_000))
    near = subject.nearest("row-4242x", ids)
    assert len(near) == 400
    assert "row-4242" in near


def test_hostile_text_neither_steers_the_terminal_nor_reads_as_markup(world, id_of, shown, written):
    row = id_of("1+2")
    for path in RUN.glob("*/chunk-*.jsonl"):
        path.write_text(
            path.read_text().replace('"1+2"', r'"[red]1+2[/red] \u001b[2J\u202e' + "\x9b" + '"')
        )
    written(RUN)
    said = shown(subject.render, subject.explain(RUN, row))
    assert r"[red]1+2[/red] \x1b[2J\u202e\x9b" in said
    assert not {"\x1b", "\u202e", "\x9b"} & set(said)


def test_long_texts_are_cut_with_a_note_unless_full(world, id_of, shown, written):
    row = id_of("1+2")
    for path in RUN.glob("*/chunk-*.jsonl"):
        path.write_text(path.read_text().replace('"1+2"', f'"{"ab " * 500}end"'))
    written(RUN)
    found = subject.explain(RUN, row)
    short, full = shown(subject.render, found), shown(subject.render, found, full=True)
    assert f"[... {1503 - 280:,} more characters]" in " ".join(short.split())
    assert "end" not in short.split("label")[0]
    assert "end" in full
    assert "more characters" not in full


def test_json_is_json(world, id_of):
    for row in (id_of("5+6"), id_of("2+4"), "line:4"):
        value = subject.as_json(subject.explain(RUN, row))
        assert json.loads(json.dumps(value, allow_nan=False))["id"] == row


def test_a_row_is_found_whatever_stands_in_its_id(world, id_of, written):
    row = id_of("1+2")
    odd = 'a"b\\ü line:1'
    for path in RUN.glob("*/*.jsonl"):
        path.write_text(
            path.read_text().replace(json.dumps(row), json.dumps(odd, ensure_ascii=False))
        )
    written(RUN)
    assert subject.explain(RUN, odd).messages == [["user", "1+2"]]


def test_a_path_with_marks_of_its_own_opens_the_journal(world, id_of):
    row = id_of("1+2")
    shutil.copytree(RUN, "runs/a?b#c%20d")
    found = subject.explain(Path("runs/a?b#c%20d"), row)
    assert not found.gaps
    assert found.events[0].calls


def test_words_for_values():
    assert (
        text.value({"a": None, "b": True, "c": 0.123456, "d": [1, 2], "e": "x"})
        == "a none, b yes, c 0.1235, d 1, 2, e x"
    )
    assert text.value(list(range(20))).endswith("[12 more]")


def test_text_that_stands_in_the_conversation_is_not_told_as_missing() -> None:
    from nfilter.report.explain import without_blanks

    turns = [{"role": "user", "content": None}, {"role": "assistant", "content": None, "weight": 0}]
    assert without_blanks([*turns, "x", 0]) == [
        {"role": "user"}, {"role": "assistant", "weight": 0}, "x", 0
    ]  # fmt: skip
