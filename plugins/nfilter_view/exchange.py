"""Rows and decisions as files of other tools, and back: Argilla, Label Studio, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nfilter import ACTIONS, Outcome, Review, RunReader, StoreError, did_you_mean, publishing
from nfilter_view.scores import views_of

_COLUMNS: Final = ("id", "question", "given", "suggested", "decision", "label", "why", "who")
_WORDS: Final = ("accept", "relabel", "drop", "skip")
# What a spreadsheet takes for a formula gets an apostrophe in front.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


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
    """A decision as another tool holds it; ``place`` says where, for errors."""

    place: str
    id: str
    action: str
    label: str | None
    why: str
    who: str


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
    except (OSError, ValueError) as error:
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
    item = items.get(answer.id)
    if item is None:
        raise ValueError(
            f"no row {answer.id!r:.80} in the run{did_you_mean(answer.id, list(items)[:2000])}"
        )
    if answer.action not in ACTIONS:
        raise ValueError(f"the decision is {answer.action!r:.80}; write one of {', '.join(_WORDS)}")
    label = answer.label
    if answer.action == "accept":
        # What was accepted is on record, whatever a later run makes of the row.
        label = label or item.suggested
    if answer.action == "relabel" and not label:
        raise ValueError("relabel needs the new label; write it under label")
    if answer.action in ("drop", "skip"):
        label = None
    return Review(answer.id, answer.action, label, item.given, answer.why, answer.who or who)


# --- Argilla: the records of a dataset, as `dataset.records.to_json` and `from_json` have them ------------------------------


def _argilla(items: Sequence[_Item]) -> str:
    records = []
    for item in items:
        record: dict[str, Any] = {
            "id": item.id,
            "fields": {"question": item.question, "given": item.given, "reason": item.reason},
            "metadata": {},
            "suggestions": {
                "decision": {"value": "accept", "score": None, "agent": "nfilter"},
                **(
                    {"label": {"value": item.suggested, "score": None, "agent": "nfilter"}}
                    if item.suggested
                    else {}
                ),
            },
            "vectors": {},
            "responses": {},
        }
        if item.review is not None:
            said = {
                "decision": item.review.action,
                "label": item.review.label,
                "why": item.review.why,
            }
            record["responses"] = {
                name: [{"value": value, "user_id": item.review.who}]
                for name, value in said.items()
                if value
            }
        records.append(record)
    return json.dumps(records, ensure_ascii=False, indent=1) + "\n"


def _from_argilla(text: str) -> Iterator[_Answer]:
    for number, record in enumerate(_list(text), start=1):
        responses = record.get("responses") or {}
        found = {name: _first(responses.get(name)) for name in ("decision", "label", "why")}
        action = found["decision"] or ("relabel" if found["label"] else "")
        if not action:
            continue
        users = [
            each.get("user_id")
            for each in responses.get("decision") or responses.get("label") or ()
            if isinstance(each, Mapping)
        ]
        yield _Answer(
            f"record {number}", str(record.get("id", "")), str(action), _or_none(found["label"]), str(found["why"] or ""),
            str(users[0] or "") if users else "",
        )  # fmt: skip


def _first(values: Any) -> Any:
    """The value of the first response to a question."""
    if isinstance(values, list) and values and isinstance(values[0], Mapping):
        return values[0].get("value")
    return None


# --- Label Studio: tasks with annotations, as its JSON import and export have them -----------------------------------------


def _label_studio(items: Sequence[_Item]) -> str:
    tasks = []
    for number, item in enumerate(items, start=1):
        task: dict[str, Any] = {
            "id": number,
            "data": {
                "id": item.id,
                "question": item.question,
                "given": item.given,
                "reason": item.reason,
            },
            "predictions": [
                {"model_version": "nfilter", "result": _results("accept", item.suggested, "")}
            ],
            "annotations": [],
        }
        if item.review is not None:
            result = _results(item.review.action, item.review.label, item.review.why)
            task["annotations"] = [{"completed_by": item.review.who, "result": result}]
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _results(action: str, label: str | None, why: str) -> list[dict[str, Any]]:
    out = [
        {
            "from_name": "decision",
            "to_name": "question",
            "type": "choices",
            "value": {"choices": [action]},
        }
    ]
    out += [
        {"from_name": name, "to_name": "question", "type": "textarea", "value": {"text": [text]}}
        for name, text in (("label", label), ("why", why))
        if text
    ]
    return out


def _from_label_studio(text: str) -> Iterator[_Answer]:
    for number, task in enumerate(_list(text), start=1):
        annotations = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
        if not annotations:
            continue
        last = annotations[-1]
        found: dict[str, str] = {}
        for result in last.get("result") or ():
            value = result.get("value") or {}
            texts = value.get("choices") or value.get("text") or []
            found[str(result.get("from_name"))] = str(_text_of(texts))
        who = last.get("completed_by")
        action = found.get("decision") or ("relabel" if found.get("label") else "")
        data = task.get("data") or {}
        yield _Answer(
            f"task {number}", str(data.get("id", "")), action, _or_none(found.get("label")), found.get("why", ""),
            str(who.get("email", "")) if isinstance(who, Mapping) else str(who or ""),
        )  # fmt: skip


def _text_of(value: Any) -> str:
    """The first of several texts, or the text itself."""
    if isinstance(value, list):
        return str(value[0]) if value else ""
    return str(value or "")


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
        writer.writerow([_guard(cell) for cell in cells])
    return out.getvalue()


def _guard(cell: str) -> str:
    safe = cell.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return f"'{safe}" if safe.startswith(_FORMULA) else safe


def _from_csv(text: str) -> Iterator[_Answer]:
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [
        name for name in ("id", "decision", "label") if name not in (reader.fieldnames or ())
    ]
    if missing:
        raise ValueError(f"the column {missing[0]!r} is gone; put it back")
    for row in reader:
        cells = {name: (row.get(name) or "").removeprefix("'") for name in _COLUMNS}
        action = cells["decision"].strip().lower() or ("relabel" if cells["label"] else "")
        if action:
            yield _Answer(
                f"line {reader.line_num}",
                cells["id"],
                action,
                _or_none(cells["label"]),
                cells["why"],
                cells["who"],
            )


def _or_none(value: Any) -> str | None:
    return str(value) if value else None


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
