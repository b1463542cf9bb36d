"""Rows and decisions as files of other tools, and back: Argilla, Label Studio, CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nfilter import (
    ACTIONS,
    Outcome,
    Review,
    RunReader,
    StoreError,
    cell_of,
    did_you_mean,
    publishing,
    text_of_cell,
)
from nfilter_view.scores import views_of

_COLUMNS: Final = ("id", "question", "given", "suggested", "decision", "label", "why", "who")
_WORDS: Final = ("accept", "relabel", "drop", "skip")
_QUESTIONS: Final = ("decision", "label", "why")
_BY: Final = "reviewed_by"
_AGENT: Final = "nfilter"
_REVIEWER: Final = "reviewer: "
# Argilla takes names of agents of these characters alone, and 200 of them.
_UNFIT_FOR_AGENT: Final = re.compile(r"[^A-Za-z0-9_:./\- ]")
_LONGEST_AGENT: Final = 150


@dataclass(frozen=True, slots=True)
class _Item:
    """One row as other tools see it: what the run makes of it, and the decision so far."""

    id: str
    question: str
    given: str
    suggested: str | None
    reason: str
    views: Mapping[str, str]
    review: Review | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A decision as another tool holds it: ``parts`` by question; ``place`` says where, for errors."""

    place: str
    id: str
    parts: Mapping[str, str]
    who: str
    fault: str = ""


def export_rows(run: Path, out: Path, name: str, most: int | None = None) -> str:
    """Write the rows of a run to ``out`` and return what was written.

    Raises:
        StoreError: when the format is unknown, or ``out`` is there already.
    """
    write, _ = _format(name)
    if out.exists():
        raise StoreError(f"{out}: it is there already; name a file that is not, or remove it")
    reader = RunReader(run)
    items = _items(reader)
    if most is not None:
        items = items[:most]
    with publishing(out) as file:
        file.write(write(items))
    done = sum(item.review is not None for item in items)
    return f"{out}: {len(items)} rows, {done} of them with a decision"


def import_rows(run: Path, data: Path, name: str, who: str = "") -> str:
    """Read the decisions in ``data`` into review.jsonl and return what was read; a decision that is there is not repeated.

    Raises:
        StoreError: names the place of every fault; nothing is read then.
    """
    _, read = _format(name)
    reader = RunReader(run)
    given = {item.id: item for item in _items(reader)}
    known = reader.reviews()
    faults: list[str] = []
    reviews: list[Review] = []
    try:
        answers = list(read(data.read_bytes().decode("utf-8-sig")))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreError(f"{data}: cannot be read as {name}: {why}; export it again") from error
    for answer in answers:
        try:
            review = _review(answer, given, who)
        except ValueError as error:
            faults.append(f"{data}: {answer.place}: {error}")
            continue
        if not _same(known.get(review.id), review):
            reviews.append(review)
            known[review.id] = review
    if faults:
        more = f"\n{len(faults) - 8} more" if len(faults) > 8 else ""
        raise StoreError("\n".join(faults[:8]) + more)
    if reviews:
        reader.review(reviews)
    return f"{len(reviews)} new decisions in {run / 'review.jsonl'}, {len(answers) - len(reviews)} known already"


def _format(
    name: str,
) -> tuple[Callable[[Sequence[_Item]], str], Callable[[str], Iterator[_Answer]]]:
    if name not in _FORMATS:
        raise StoreError(
            f"no format {name!r:.80}{did_you_mean(name, _FORMATS)}; write --format {' or '.join(_FORMATS)}"
        )
    return _FORMATS[name]


def _items(reader: RunReader) -> list[_Item]:
    """The rows of the source that could be read, in order: a row that a stage made, or an unreadable line, has no decision."""
    reviews = reader.reviews()
    return [
        _item(row, reviews.get(row.id))
        for block in reader.outcomes()
        for row in block
        if row.label is not None and row.sample is not None
    ]


def _item(row: Outcome, review: Review | None) -> _Item:
    assert row.sample is not None
    assert row.label is not None
    messages = row.sample.context
    question = (
        messages[0].content
        if len(messages) == 1
        else "\n\n".join(f"[{each.role}]\n{each.shown()}" for each in messages)
    )
    return _Item(
        id=row.id,
        question=question,
        given=row.label,
        suggested=row.sample.response if row.fate == "kept" else None,
        reason=row.reason,
        views={
            name: view.answer
            for name, view in views_of(row.sample).items()
            if view.answer is not None
        },
        review=review,
    )


def _same(known: Review | None, review: Review) -> bool:
    fields = ("action", "label", "given", "why")
    return known is not None and all(
        getattr(known, name) == getattr(review, name) for name in fields
    )


def _review(answer: _Answer, items: Mapping[str, _Item], who: str) -> Review:
    if answer.fault:
        raise ValueError(answer.fault)
    item = items.get(answer.id)
    if item is None:
        raise ValueError(
            f"no row {answer.id!r:.80} in the run{did_you_mean(answer.id, list(items)[:2000])}"
        )
    label = answer.parts.get("label") or None
    action = answer.parts.get("decision") or ("relabel" if label else "")
    if action not in ACTIONS:
        raise ValueError(f"the decision is {action!r:.80}; write one of {', '.join(_WORDS)}")
    if action == "accept":
        # What was accepted is on record, whatever a later run makes of the row.
        label = label or item.suggested
    if action == "relabel" and not label:
        raise ValueError("relabel needs the new label; write it under label")
    if action in ("drop", "skip"):
        label = None
    return Review(
        answer.id, action, label, item.given, answer.parts.get("why", ""), answer.who or who
    )


# --- Argilla: the records of a dataset, as `dataset.records.to_json` and `from_json` have them ------------------------------


def _argilla(items: Sequence[_Item]) -> str:
    """Decisions are suggestions of a person: a response has the UUID of a user of one Argilla server, and no other server takes it."""
    return json.dumps([_record(item) for item in items], indent=1) + "\n"


def _record(item: _Item) -> dict[str, Any]:
    suggested = {
        name: (text, _AGENT)
        for name, text in (("decision", "accept"), ("label", item.suggested))
        if text
    }
    if item.review is not None:
        by = _REVIEWER + _UNFIT_FOR_AGENT.sub("-", item.review.who)[:_LONGEST_AGENT]
        suggested |= {name: (text, by.rstrip()) for name, text in _parts(item.review).items()}
    return {
        "id": item.id,
        "fields": {"question": item.question, "given": item.given, "reason": item.reason},
        "metadata": {} if item.review is None else {_BY: item.review.who},
        "suggestions": {
            name: {"value": text, "score": None, "agent": agent}
            for name, (text, agent) in suggested.items()
        },
        "vectors": {},
        "responses": {},
    }


def _parts(review: Review) -> dict[str, str]:
    """The answers to the questions that the tools ask, without empty ones."""
    said = {"decision": review.action, "label": review.label, "why": review.why}
    return {name: text for name, text in said.items() if text}


def _from_argilla(text: str) -> Iterator[_Answer]:
    for number, record in enumerate(_list(text), start=1):
        place = f"record {number}"
        if "responses" not in record and "suggestions" not in record:
            raise ValueError(
                f"{place}: it has no responses; write the file with dataset.records.to_json"
            )
        said = _responses(record, place) or _suggestions(record, place)
        if not said:
            continue
        decided = {(parts.get("decision"), parts.get("label")) for parts in said.values()}
        who, parts = next(iter(said.items()))
        yield _Answer(
            place, str(record.get("id", "")), who=who, parts=parts,
            fault=f"{len(said)} people decided differently; keep the responses of one" if len(decided) > 1 else "",
        )  # fmt: skip


def _responses(record: Mapping[str, Any], place: str) -> dict[str, dict[str, str]]:
    """The answers of each user who decided, by the user's id."""
    said: dict[str, dict[str, str]] = {}
    for name, responses in _mapping(record.get("responses"), place).items():
        for one in _mappings(responses, place):
            user = one.get("user_id")
            # Argilla writes the text None where a response has no user.
            who = "" if user in (None, "None") else str(user)
            said.setdefault(who, {})[name] = _text(one.get("value"), f"{place}: {name}")
    return {
        who: parts for who, parts in said.items() if parts.get("decision") or parts.get("label")
    }


def _suggestions(record: Mapping[str, Any], place: str) -> dict[str, dict[str, str]]:
    """The answers of the person who decided before the export, by name."""
    parts: dict[str, str] = {}
    who = ""
    for name, value in _mapping(record.get("suggestions"), place).items():
        suggestion = _mapping(value, place)
        agent = str(suggestion.get("agent") or "")
        if agent.startswith(_REVIEWER.rstrip()):
            parts[name] = _text(suggestion.get("value"), f"{place}: {name}")
            who = agent.removeprefix(_REVIEWER.rstrip()).lstrip()
    named = _mapping(record.get("metadata"), place).get(_BY, who)
    return {_text(named, f"{place}: {_BY}"): parts} if parts else {}


# --- Label Studio: tasks with annotations, as its JSON import and export have them -----------------------------------------


def _label_studio(items: Sequence[_Item]) -> str:
    return (
        json.dumps([_task(number, item) for number, item in enumerate(items, start=1)], indent=1)
        + "\n"
    )


def _task(number: int, item: _Item) -> dict[str, Any]:
    """An annotation names no author: Label Studio refuses a file with one who is not a member there. The data have the name."""
    told = {"decision": "accept", **({"label": item.suggested} if item.suggested else {})}
    data = {"id": item.id, "question": item.question, "given": item.given, "reason": item.reason}
    annotations = []
    if item.review is not None:
        parts = _parts(item.review)
        annotations = [{"result": _results(parts)}]
        data |= {_BY: item.review.who, **{f"reviewed_{name}": text for name, text in parts.items()}}
    return {
        "id": number,
        "data": data,
        "predictions": [{"model_version": _AGENT, "result": _results(told)}],
        "annotations": annotations,
    }


def _results(parts: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "from_name": name,
            "to_name": "question",
            "type": "choices" if name == "decision" else "textarea",
            "value": {"choices" if name == "decision" else "text": [text]},
        }
        for name, text in parts.items()
    ]


def _from_label_studio(text: str) -> Iterator[_Answer]:
    for number, task in enumerate(_list(text), start=1):
        place = f"task {number}"
        if "annotations" not in task:
            raise ValueError(f"{place}: it has no annotations; export it as JSON, not as JSON-MIN")
        annotations = [
            one for one in _mappings(task["annotations"], place) if not one.get("was_cancelled")
        ]
        if not annotations:
            continue
        last = annotations[-1]
        parts: dict[str, str] = {}
        for result in _mappings(last.get("result"), place):
            value = _mapping(result.get("value"), place)
            texts = value.get("choices") or value.get("text")
            name = str(result.get("from_name"))
            parts[name] = _text(
                texts[0] if isinstance(texts, list) and texts else texts, f"{place}: {name}"
            )
        data = _mapping(task.get("data"), place)
        exported = {
            name: data[f"reviewed_{name}"] for name in _QUESTIONS if f"reviewed_{name}" in data
        }
        # What was exported is by its author; what differs from it is by the annotator.
        same = bool(exported) and exported == {
            name: parts[name] for name in _QUESTIONS if parts.get(name)
        }
        who = data.get(_BY) if same else _annotator(last.get("completed_by"))
        yield _Answer(place, str(data.get("id", "")), parts, _text(who, f"{place}: {_BY}"))


def _annotator(by: Any) -> str:
    """The email address of a user of Label Studio, else the number."""
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return "" if by is None else str(by)


def _text(value: Any, place: str) -> str:
    """A text; empty for null."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: is {type(value).__name__}, and a text is read")
    return value or ""


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{place}: has {value!r:.40} where an object belongs")
    return value or {}


def _mappings(value: Any, place: str) -> list[Mapping[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{place}: has {value!r:.40} where a list belongs")
    return [_mapping(one, place) for one in value or ()]


# --- CSV ---------------------------------------------------------------------------------------------------------------------


def _csv(items: Sequence[_Item]) -> str:
    out = io.StringIO(newline="")
    out.write("\ufeff")
    writer = csv.writer(out, lineterminator="\n")
    names = sorted({name for item in items for name in item.views})
    writer.writerow([*_COLUMNS, *(f"view {name}" for name in names)])
    for item in items:
        review = item.review
        said = (
            (review.action, review.label or "", review.why, review.who)
            if review
            else ("", "", "", "")
        )
        cells = [
            item.id,
            item.question,
            item.given,
            item.suggested or "",
            *said,
            *(item.views.get(name, "") for name in names),
        ]
        writer.writerow([cell_of(text) for text in cells])
    return out.getvalue()


def _from_csv(text: str) -> Iterator[_Answer]:
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [
        name for name in ("id", "decision", "label") if name not in (reader.fieldnames or ())
    ]
    if missing:
        raise ValueError(f"the column {missing[0]!r} is gone; put it back")
    with _long_cells(len(text)):
        for row in reader:
            cells = {name: text_of_cell(row.get(name) or "") for name in _COLUMNS}
            parts = {**cells, "decision": cells["decision"].strip().lower()}
            if parts["decision"] or parts["label"]:
                yield _Answer(f"line {reader.line_num}", cells["id"], parts, cells["who"])


@contextmanager
def _long_cells(most: int) -> Iterator[None]:
    # The csv module's limit is global to the process, and less than a long conversation.
    before = csv.field_size_limit(max(most, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _list(text: str) -> list[dict[str, Any]]:
    value = json.loads(text)
    if isinstance(value, dict) and isinstance(value.get("records"), list):
        value = value["records"]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("not a list of JSON objects")
    return value


_FORMATS: Final[
    dict[str, tuple[Callable[[Sequence[_Item]], str], Callable[[str], Iterator[_Answer]]]]
] = {
    "argilla": (_argilla, _from_argilla),
    "label-studio": (_label_studio, _from_label_studio),
    "csv": (_csv, _from_csv),
}
