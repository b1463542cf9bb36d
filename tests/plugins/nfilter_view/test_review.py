"""Reviews: what is recorded, what the next run makes of it, and how it travels to other tools and back."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("starlette")

from nfilter import RunReader, StoreError
from nfilter.report.audit import audit
from nfilter.report.explain import explain
from nfilter_view.commands import review as command
from nfilter_view.reviewing import choices

from .test_server import Page

RUN = Path("runs/sums")


@pytest.fixture
def page(runs: Callable[..., Any]) -> Page:
    runs()
    return Page(Path("runs"))


@pytest.fixture
def key(page: Page) -> str:
    (run,) = page.get("runs")["runs"]
    page.indexed(run["key"])
    return str(run["key"])


@pytest.mark.parametrize(
    ("label", "shown"),
    [("B", ["A  rain", "B  snow"]), ("snow", ["rain", "snow"])],
)
def test_options_have_letters_only_where_the_label_is_a_letter(label, shown):
    row = {"label": label, "columns": {"options": ["rain", "snow"]}}
    found = choices(row)
    assert [choice["shown"] for choice in found] == shown
    assert label in [choice["label"] for choice in found]


def decisions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RUN / "review.jsonl").read_text().splitlines()]


def calls() -> list[tuple[str]]:
    with closing(sqlite3.connect(RUN / "journal.db")) as db, db:
        return db.execute("SELECT key FROM calls ORDER BY key").fetchall()


def decide_ten(page: Page, key: str) -> dict[str, str | None]:
    """Ten decisions of all kinds, borderline rows first; by id, the label that each row is to end with."""
    wanted: dict[str, str | None] = {}
    for number in range(10):
        row = page.get(f"runs/{key}/review")["next"][0]
        action = ("relabel", "drop", "accept")[number % 3]
        sent = {"id": row["id"], "action": action, "why": f"number {number}"}
        if action == "relabel":
            sent["label"] = f"{1000 + number}"
        done = page.post(f"runs/{key}/review/decide", sent)
        wanted[row["id"]] = done["review"]["label"]
        assert done["reviewed"] == number + 1
    return wanted


def ends(run: Path) -> dict[str, str | None]:
    return {
        row.id: row.sample.response if row.fate == "kept" and row.sample else None
        for block in RunReader(run).outcomes()
        for row in block
    }


def test_ten_decisions_are_pinned_on_the_next_run_and_no_call_is_repeated(page, key, runs):
    before = calls()
    untouched = ends(RUN)
    wanted = decide_ten(page, key)
    assert len(wanted) == 10
    assert sum(label is None for label in wanted.values()) >= 3
    runs()
    after = ends(RUN)
    assert {name: after[name] for name in wanted} == wanted
    assert {name: label for name, label in after.items() if name not in wanted} == {
        name: label for name, label in untouched.items() if name not in wanted
    }
    assert calls() == before
    cleaned = [json.loads(line)["id"] for line in (RUN / "cleaned.jsonl").read_text().splitlines()]
    assert set(cleaned).isdisjoint(name for name, label in wanted.items() if label is None)
    told = explain(RUN, next(name for name, label in wanted.items() if label and len(label) == 4))
    assert told.pinned
    assert told.events[0].stage == "00-review"
    assert told.events[0].decisions[0]["reason"].startswith("reviewed by ann (relabel): number ")


def test_a_run_without_new_decisions_takes_all_that_is_there(page, key, runs):
    decide_ten(page, key)
    runs()
    made = {path: path.stat().st_mtime_ns for path in RUN.glob("[0-9][0-9]-*/chunk-*")}
    runs()
    assert {path: path.stat().st_mtime_ns for path in RUN.glob("[0-9][0-9]-*/chunk-*")} == made
    assert (RUN / "00-review").is_dir()
    (RUN / "review.jsonl").unlink()
    runs()
    assert not (RUN / "00-review").exists()
    assert "00-review" not in json.loads((RUN / "manifest.json").read_text())["fingerprints"]


def test_decisions_about_other_labels_are_not_used_and_told(page, key, runs):
    wanted = decide_ten(page, key)
    text = Path("sums.qa").read_text()
    lines = [json.dumps({**row, "given": "something else"}) for row in decisions()]
    (RUN / "review.jsonl").write_text("\n".join(lines) + "\n")
    assert len(wanted) == len(lines)
    result = runs()
    assert text == Path("sums.qa").read_text()
    (told,) = [row["text"] for row in result.metrics["warnings"] if row["stage"] == "00-review"]
    assert told.startswith(
        "10 of 10 reviewed rows are not in the source, or have another label there"
    )
    assert not any(
        row.sample.pinned for block in RunReader(RUN).outcomes() for row in block if row.sample
    )


def test_the_raw_labels_stay_those_of_the_source(page, key, runs):
    wanted = decide_ten(page, key)
    source = (RUN / "00-source" / "chunk-000000.jsonl").read_bytes()
    runs()
    assert (RUN / "00-source" / "chunk-000000.jsonl").read_bytes() == source
    assert wanted


def test_skipped_rows_come_last_and_decide_nothing(page, key, runs):
    first = page.get(f"runs/{key}/review")
    row = first["next"][0]
    page.post(f"runs/{key}/review/decide", {"id": row["id"], "action": "skip"})
    then = page.get(f"runs/{key}/review")
    assert then["next"][0]["id"] == first["next"][1]["id"]
    assert (then["left"], then["reviewed"]) == (first["left"], 0)
    before = ends(RUN)
    runs()
    assert ends(RUN) == before


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"action": "keep"}, "action is 'keep'; write one of accept, relabel, drop, skip"),
        ({"action": "relabel"}, "relabel needs the new label"),
        ({"id": "nobody", "action": "drop"}, "no row 'nobody'"),
        ({"id": "line:25", "action": "drop"}, "a line that could not be read has no label"),
    ],
)
def test_a_decision_of_another_form_is_refused_and_not_recorded(page, key, sent, words):
    row = page.get(f"runs/{key}/review")["next"][0]
    answer = page.client.post(
        f"/api/runs/{key}/review/decide", json={"id": row["id"], **sent}, headers=page.headers
    )
    assert (answer.status_code, words in answer.json()["error"]) == (400, True)
    assert not (RUN / "review.jsonl").exists()


def test_a_decision_is_sent_as_json_by_the_page_alone(page, key):
    row = page.get(f"runs/{key}/review")["next"][0]
    sent = json.dumps({"id": row["id"], "action": "drop"})
    path = f"/api/runs/{key}/review/decide"
    form = {"Content-Type": "text/plain", **page.headers}
    assert page.client.post(path, content=sent, headers=form).status_code == 400
    foreign = {"Content-Type": "application/json", "Origin": "http://evil.example", **page.headers}
    assert page.client.post(path, content=sent, headers=foreign).status_code == 403
    assert not (RUN / "review.jsonl").exists()


def test_reviewed_rows_answer_the_audit_and_only_those_that_were_drawn(page, key):
    drawn = page.post(f"runs/{key}/review/draw", {"n": 8})
    assert (drawn["audit"]["drawn"], drawn["audit"]["answered"]) == (8, 0)
    queue = page.get(f"runs/{key}/review", of="audit")
    assert queue["left"] == 8
    for row in queue["next"]:
        found = page.get(f"runs/{key}/row", id=row["id"])
        right = found["truth"] == found["label"]
        sent = {"action": "accept"} if right else {"action": "relabel", "label": found["truth"]}
        done = page.post(f"runs/{key}/review/decide", {"id": row["id"], **sent})
    assert done["audit"]["answered"] == 8
    estimates = done["audit"]["estimates"]
    assert (estimates["precision"]["value"], estimates["recall"]["value"]) == (1.0, 1.0)
    assert estimates["precision"]["low"] < 1.0
    other = next(
        row["id"] for row in page.get(f"runs/{key}/review")["next"] if row["id"] not in {each["id"] for each in queue["next"]}
    )  # fmt: skip
    page.post(f"runs/{key}/review/decide", {"id": other, "action": "drop"})
    told = audit(RUN)
    assert told.answered == 8
    assert told.mistaken == told.missed == []


def decide(page: Page, key: str, name: str, **sent: Any) -> Any:
    """Decide about a row as the truth has it."""
    found = page.get(f"runs/{key}/row", id=name)
    right = found["truth"] == found["label"]
    said = {"action": "accept"} if right else {"action": "relabel", "label": found["truth"]}
    return page.post(f"runs/{key}/review/decide", {"id": name, **said, **sent})["audit"]


@pytest.mark.types("from its first line, or `nfilter view`, Review, ")
def test_chosen_rows_of_a_draw_count_once_the_random_order_reaches_them(page, key):
    page.post(f"runs/{key}/review/draw", {"n": 12})
    drawn = [row["id"] for row in page.get(f"runs/{key}/review", of="audit")["next"]]
    chosen = [drawn[2], drawn[5]]
    for name in chosen:
        told = decide(page, key, name)
        assert (told["status"], told["answered"], told["estimates"]) == ("drawn", 0, None)
    assert told["notes"][0].startswith(
        "drawn rows that a person chose to review, and that do not count yet: 2. The choice depends"
    )
    # Nothing counts, so that another draw loses nothing.
    assert page.post(f"runs/{key}/review/draw", {"n": 14})["audit"]["drawn"] == 14
    page.post(f"runs/{key}/review/draw", {"n": 12})
    queue = [row["id"] for row in page.get(f"runs/{key}/review", of="audit")["next"]]
    assert queue == [name for name in drawn if name not in chosen]
    counts = [decide(page, key, name, in_order=True)["answered"] for name in queue[:4]]
    assert counts == [1, 3, 4, 6]
    # Now the draw is kept, and rows are added behind its own.
    more = page.post(f"runs/{key}/review/draw", {"n": 14})["audit"]
    assert (more["drawn"], more["answered"]) == (14, 6)
    after = [row["id"] for row in page.get(f"runs/{key}/review", of="audit")["next"]]
    assert after[:-2] == queue[4:]
    assert len(set(after) | set(drawn)) == 14
    # A second decision elsewhere leaves the first one's place in the order.
    assert decide(page, key, queue[3])["answered"] == 6
    assert [row["draw"] for row in decisions()][:2] == ["", ""]
    assert len({row["draw"] for row in decisions()[2:6]} - {""}) == 1
    assert audit(RUN).answered == 6


def test_a_row_that_was_not_drawn_is_never_in_the_order_of_a_draw(page, key):
    page.post(f"runs/{key}/review/draw", {"n": 8})
    drawn = {row["id"] for row in page.get(f"runs/{key}/review", of="audit")["next"]}
    other = next(row["id"] for row in page.get(f"runs/{key}/review")["next"] if row["id"] not in drawn)  # fmt: skip
    assert decide(page, key, other, in_order=True)["answered"] == 0
    assert decisions()[0]["draw"] == ""


def test_rows_skipped_in_the_order_come_last_and_are_told(page, key):
    page.post(f"runs/{key}/review/draw", {"n": 8})
    drawn = [row["id"] for row in page.get(f"runs/{key}/review", of="audit")["next"]]
    sent = {"id": drawn[0], "action": "skip", "in_order": True}
    assert page.post(f"runs/{key}/review/decide", sent)["audit"]["answered"] == 0
    queue = [row["id"] for row in page.get(f"runs/{key}/review", of="audit")["next"]]
    assert queue == [*drawn[1:], drawn[0]]
    decide(page, key, drawn[2])
    told = decide(page, key, drawn[1], in_order=True)
    assert told["answered"] == 2
    (note,) = told["notes"]
    assert note == (
        "6 rows have no answer yet, 1 of them before the last answered row: the estimates assume that such rows are like the "
        "others of their stratum. The figures may be biased until these have an answer, because a person chose 1 of the answered rows"
    )


def test_rows_that_people_decided_are_in_no_later_draw_and_count_in_the_noise_rate_alone(
    page, key, runs
):
    before = [row["id"] for row in page.get(f"runs/{key}/rows", flagged="yes")["rows"]][:3]
    for name in before:
        decide(page, key, name)
    runs()
    drawn = audit(RUN, n=50)
    assert (drawn.population, drawn.decided, drawn.decided_wrong) == (21, 3, 3)
    again = Page(Path("runs"))
    again.indexed(key)
    queue: list[str] = []
    while not queue or len(queue) < 21:
        names = [row["id"] for row in again.get(f"runs/{key}/review", of="audit")["next"]]
        assert set(names).isdisjoint(before)
        told = decide(again, key, names[0], in_order=True)
        queue.append(names[0])
    estimates = told["estimates"]
    assert estimates["noise_rate"]["value"] == pytest.approx(8 / 24)
    assert (estimates["precision"]["value"], estimates["recall"]["value"]) == (1.0, 1.0)
    assert told["notes"] == [
        "3 rows that people had decided about are not drawn: they count in the noise rate, and not in precision and recall"
    ]


@pytest.mark.parametrize("name", ["argilla", "label-studio", "csv"])
def test_decisions_make_the_round_trip(name, page, key):
    wanted = decide_ten(page, key)
    before = decisions()
    shown = CliRunner().invoke(command, ["export", str(RUN), "out.file", "--format", name])
    assert shown.output == "out.file: 24 rows, 10 of them with a decision\n", shown.output
    (RUN / "review.jsonl").unlink()
    shown = CliRunner().invoke(command, ["import", str(RUN), "out.file", "--format", name])
    assert shown.output.startswith("10 new decisions"), shown.output
    kept = ("id", "action", "label", "given", "why", "who")
    assert sorted([{k: row[k] for k in kept} for row in decisions()], key=str) == sorted(
        [{k: row[k] for k in kept} for row in before], key=str
    )
    assert {row["id"]: row["label"] for row in decisions()} == wanted
    again = CliRunner().invoke(command, ["import", str(RUN), "out.file", "--format", name])
    assert again.output.startswith("0 new decisions")
    assert len(decisions()) == 10


def test_a_sheet_filled_in_by_hand_is_read(page, key):
    CliRunner().invoke(command, ["export", str(RUN), "rows.csv", "--format", "csv", "--n", "3"])
    with Path("rows.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    rows[0]["decision"], rows[0]["label"] = "", "42"
    rows[1]["decision"] = "Drop"
    rows[2]["decision"] = "accept"
    with Path("rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    CliRunner().invoke(command, ["import", str(RUN), "rows.csv", "--format", "csv", "--who", "bo"])
    found = decisions()
    assert [(row["action"], row["who"]) for row in found] == [
        ("relabel", "bo"),
        ("drop", "bo"),
        ("accept", "bo"),
    ]
    assert (found[0]["label"], found[1]["label"], found[2]["label"]) == (
        "42",
        None,
        rows[2]["suggested"] or None,
    )


@pytest.mark.types("no format «»«»; write --format", "the decision is «»; write one of")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,decision,label\nnobody,drop,\n", r"rows.csv: line 2: no row 'nobody'"),
        (
            "id,decision,label\nROW,keep,\n",
            r"line 2: the decision is 'keep'; write one of accept, relabel, drop, skip",
        ),
        ("id,decision,label\nROW,relabel,\n", r"line 2: relabel needs the new label"),
        ("id,label\nROW,4\n", r"the column 'decision' is gone; put it back"),
    ],
)
def test_an_import_names_every_fault_and_records_nothing(text, words, page, key):
    row = page.get(f"runs/{key}/review")["next"][0]["id"]
    Path("rows.csv").write_text(text.replace("ROW", row))
    from nfilter_view.exchange import import_rows

    with pytest.raises(StoreError, match=words):
        import_rows(RUN, Path("rows.csv"), "csv")
    assert not (RUN / "review.jsonl").exists()
    with pytest.raises(StoreError, match="write --format argilla or label-studio or csv"):
        import_rows(RUN, Path("rows.csv"), "cvs")


@pytest.mark.types("action is «»; write one of")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "review.jsonl:1: "),
        ('{"id": "a", "action": "keep", "given": "1"}', "action is 'keep'; write one of accept"),
        ('{"id": "a", "action": "relabel", "given": "1"}', "relabel needs the new label; write it as a text under label"),
        ('{"id": "a", "action": "drop", "label": "1"}', "drop has no label; write null under label"),
        ('{"id": "a", "acton": "drop"}', "unknown field 'acton'; did you mean 'action'?"),
        ('{"action": "drop"}', "id is missing; write the id of a row"),
    ],
)  # fmt: skip
def test_a_fault_of_the_file_of_decisions_stops_the_run_with_its_line(line, words, runs):
    runs()
    (RUN / "review.jsonl").write_text(line + "\n")
    with pytest.raises(StoreError) as caught:
        runs()
    assert words in str(caught.value)
    assert "mend the line or remove it" in str(caught.value)
