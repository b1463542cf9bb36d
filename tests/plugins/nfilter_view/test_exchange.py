"""Decisions as files of Argilla and Label Studio: what these libraries read, and what comes back of their own files."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nfilter import Review, RunReader, StoreError
from nfilter_view.exchange import export_rows, import_rows

RUN = Path("runs/sums")
WHO = "José Müller <jm@example.org>\u202e"
DOCS = Path(__file__).parents[3] / "docs" / "view.md"


@pytest.fixture
def reviewed(runs: Callable[..., Any]) -> list[Review]:
    """Decisions of all kinds: four rows, with a hostile name and hostile texts."""
    runs()
    reader = RunReader(RUN)
    rows = [row for block in reader.outcomes() for row in block if row.label is not None][:5]
    texts = {
        "accept": rows[0].label,
        "relabel": "=1+1\n<script>\x1b[31m",
        "drop": None,
        "skip": None,
    }
    reviews = [
        Review(row.id, action, label, str(row.label), f"why: {action}", WHO)
        for row, (action, label) in zip(rows, texts.items(), strict=False)
    ]  # fmt: skip
    reviews.append(Review(rows[4].id, "drop", None, str(rows[4].label), "", ""))
    reader.review(reviews)
    return reviews


def exported(name: str) -> list[dict[str, Any]]:
    export_rows(RUN, Path("out"), name)
    found = json.loads(Path("out").read_text(encoding="ascii"))
    assert isinstance(found, list)
    return found


def imported(rows: list[dict[str, Any]], name: str, who: str = "") -> dict[str, Review]:
    Path("back").write_text(json.dumps(rows))
    (RUN / "review.jsonl").unlink(missing_ok=True)
    import_rows(RUN, Path("back"), name, who)
    return dict(RunReader(RUN).reviews())


def told(reviews: Any) -> list[tuple[Any, ...]]:
    return sorted((r.id, r.action, r.label, r.given, r.why, r.who) for r in reviews)


@pytest.mark.parametrize("name", ["argilla", "label-studio"])
def test_decisions_names_and_hostile_texts_make_the_round_trip(name, reviewed):
    assert told(imported(exported(name), name).values()) == told(reviewed)


def test_a_record_of_argilla_names_no_user_of_a_server_and_agents_as_argilla_allows(reviewed):
    records = exported("argilla")
    assert all(record["responses"] == {} for record in records)
    agents = {one["agent"] for record in records for one in record["suggestions"].values()}
    # The pattern and the length by which Argilla's server checks agents.
    allowed = re.compile(r"(?=.*[a-zA-Z0-9])[a-zA-Z0-9-_:\.\/\s]+")
    assert all(allowed.fullmatch(agent) and len(agent) <= 200 for agent in agents)
    assert agents == {"nfilter", "reviewer: Jos- M-ller -jm-example.org--", "reviewer:"}


def test_argilla_reads_and_writes_the_records(reviewed):
    argilla = pytest.importorskip("argilla")
    exported("argilla")
    from argilla.records._io import JsonIO

    records = JsonIO._records_from_json("out")
    with warnings.catch_warnings(action="error"):
        models = [record.api_model() for record in records]
    assert len(models) == len(list(records))
    JsonIO.to_json(records, "back")
    (RUN / "review.jsonl").unlink()
    import_rows(RUN, Path("back"), "argilla")
    assert told(RunReader(RUN).reviews().values()) == told(reviewed)
    # What a user of a server answers comes first, by the id of the user.
    from uuid import UUID

    user = UUID("12345678-1234-5678-1234-567812345678")
    answer = argilla.Response("decision", "drop", user_id=user, status="submitted")
    records[0].responses.add(answer)
    Path("back").unlink()
    JsonIO.to_json(records, "back")
    import_rows(RUN, Path("back"), "argilla")
    found = RunReader(RUN).reviews()[reviewed[0].id]
    assert (found.action, found.who) == ("drop", str(user))


def test_the_settings_of_argilla_in_the_documentation_are_made(monkeypatch):
    argilla = pytest.importorskip("argilla")
    monkeypatch.setattr(argilla.Argilla, "_get_default", mock.MagicMock)
    (code,) = re.findall(r"```\n(import argilla.*?)```", DOCS.read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert isinstance(scope["settings"], argilla.Settings)
    scope["settings"].validate()


def test_a_response_without_a_user_is_by_nobody_of_the_name_none(reviewed):
    (record, *_) = exported("argilla")
    for user in ("None", None):
        record["responses"] = {"decision": [{"value": "drop", "user_id": user}]}
        assert imported([record], "argilla")[record["id"]].who == ""
        assert imported([record], "argilla", "bo")[record["id"]].who == "bo"


def test_two_people_who_decide_differently_are_named_and_nothing_is_read(reviewed):
    (record, *_) = exported("argilla")
    record["responses"] = {
        "decision": [{"value": "drop", "user_id": "a"}, {"value": "relabel", "user_id": "b"}],
        "label": [{"value": "7", "user_id": "b"}],
    }
    with pytest.raises(StoreError, match=r"record 1: 2 people decided differently; keep the resp"):
        imported([record], "argilla")
    # The answers of one person stay together, whatever the order of the others is.
    record["responses"]["decision"] = record["responses"]["decision"][1:]
    found = imported([record], "argilla")[record["id"]]
    assert (found.action, found.label, found.who) == ("relabel", "7", "b")


def test_a_task_of_label_studio_names_no_member_of_a_server(reviewed):
    for task in exported("label-studio"):
        assert all("completed_by" not in one for one in task["annotations"])
        assert ("reviewed_by" in task["data"]) == bool(task["annotations"])


def test_label_studio_reads_the_tasks_with_the_interface_of_the_documentation(reviewed, tmp_path):
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    (xml,) = re.findall(r"```\n(<View>.*?)```", DOCS.read_text(), re.DOTALL)
    interface = LabelInterface(xml)
    interface.validate()
    tasks = exported("label-studio")
    assert sum(len(task["annotations"]) for task in tasks) == len(reviewed)
    for task in tasks:
        for name in re.findall(r"\$(\w+)", xml):
            assert isinstance(task["data"][name], str)
        for one in task["annotations"]:
            assert interface.validate_annotation(one)
        for one in task["predictions"]:
            assert interface.validate_prediction(one, return_errors=True) == []
    converter = Converter(xml, project_dir=None)
    found = {
        item["input"]["id"]: item["output"]["decision"][0]["choices"][0]
        for item in converter.iter_from_json_file("out")
        if item["output"]
    }
    assert found == {review.id: review.action for review in reviewed}


def test_an_annotation_that_was_changed_in_label_studio_is_by_its_annotator(reviewed):
    tasks = exported("label-studio")
    for by, who in (
        ({"id": 3, "email": "ann@example.org"}, "ann@example.org"),
        ({"id": 3}, "3"),
        (3, "3"),
        (None, ""),
    ):
        # The server names who imported the annotation: it is still by the person who decided.
        for task in tasks:
            for one in task["annotations"]:
                one["completed_by"] = by
        assert told(imported(tasks, "label-studio").values()) == told(reviewed)
        changed = json.loads(json.dumps(tasks))
        changed[0]["annotations"][0]["result"][0]["value"]["choices"] = ["drop"]
        found = imported(changed, "label-studio")[changed[0]["data"]["id"]]
        assert (found.action, found.who) == ("drop", who)


@pytest.mark.types("write the file with dataset.records.to_json")
@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("argilla", [{"id": "a", "decision.responses": ["drop"]}], "write the file with dataset.records.to_json"),
        ("argilla", [{"id": "a", "responses": {"decision": "drop"}}], "record 1: has 'drop' where a list belongs"),
        ("argilla", [{"id": "a", "responses": {"decision": [{"value": 3}]}}], "record 1: decision: is int"),
        ("argilla", [{"id": "a", "responses": [1]}], "where an object belongs"),
        ("argilla", [{"id": "a", "suggestions": {"decision": "x"}}], "where an object belongs"),
        ("label-studio", [{"id": 1, "decision": "drop"}], "task 1: it has no annotations; export it as JSON"),
        ("label-studio", [{"annotations": [3]}], "task 1: has 3 where an object belongs"),
        ("label-studio", [{"annotations": [{"result": {}}]}], "task 1: has {} where a list belongs"),
        ("label-studio", [{"annotations": [{"result": [{"value": {"text": [3]}}]}]}], "is int, and a text is read"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_named_with_its_place(name, rows, words, reviewed):
    with pytest.raises(StoreError) as caught:
        imported(rows, name)
    assert words in str(caught.value)
    assert not (RUN / "review.jsonl").exists()


@pytest.mark.parametrize("name", ["argilla", "label-studio"])
def test_a_file_nested_without_end_is_refused(name, reviewed):
    Path("back").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="back: cannot be read as"):
        import_rows(RUN, Path("back"), name)


def test_a_sheet_with_a_cell_longer_than_the_csv_module_reads_by_default(reviewed):
    why = "x" * 200_000
    label = "'tis so"
    Path("back").write_text(f'id,decision,label,why\n{reviewed[0].id},,"{label}",{why}\n')
    (RUN / "review.jsonl").unlink()
    import_rows(RUN, Path("back"), "csv")
    found = RunReader(RUN).reviews()[reviewed[0].id]
    assert (found.action, found.label, found.why) == ("relabel", label, why)
