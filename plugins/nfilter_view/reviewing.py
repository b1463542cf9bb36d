"""Reviews of rows: what is shown of them, what is recorded, and how good the flags are by what people decided."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from nfilter import Review, RunReader, review_of
from nfilter_view.index import Filter, Index, Places

_CHOICES: Final = 26


def decide(reader: RunReader, row: Mapping[str, Any], value: Mapping[str, Any], who: str) -> Review:
    """Record what a person decided about a row of a run.

    Args:
        reader: The run.
        row: The row as ``RunReader.explain`` returned it.
        value: ``action``, and ``label`` for ``relabel``; ``why`` may be there, and ``in_order``: whether the row was shown in the
            random order of the audit's draw.
        who: The name of the person.

    Raises:
        ValueError: when the row cannot be reviewed, or the decision has another form.
    """
    if row["status"] == "unreadable":
        raise ValueError("a line that could not be read has no label; mend it in the source")
    if row["parents"]:
        raise ValueError(
            "a stage made this row, so that the next run makes it anew; review its parents"
        )
    action = value.get("action")
    label = value.get("label")
    if action == "accept":
        label = None if row["status"] == "dropped" else row["label_now"]
    if action in ("drop", "skip"):
        label = None
    drawn = reader.drawn()
    in_order = value.get("in_order") is True and row["id"] in drawn.ids
    review = review_of({
        "id": row["id"], "action": action, "label": label, "given": row["label"] or "",
        "why": str(value.get("why") or "")[:2000], "who": who, "draw": drawn.name if in_order else "",
    })  # fmt: skip
    reader.review([review])
    return review


def choices(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the labels that a person can choose with one key: the row's options, the two responses of a pair, else the answers at hand, each once."""
    options = row["columns"].get("options")
    if isinstance(options, list) and 2 <= len(options) <= _CHOICES:
        given = str(row["label"] or "").strip()
        lettered = len(given) == 1 and given.upper() in string.ascii_uppercase[: len(options)]
        return [
            {"label": letter, "shown": f"{letter}  {option}"}
            if lettered
            else {"label": str(option), "shown": str(option)}
            for letter, option in zip(string.ascii_uppercase, options, strict=False)
        ]
    if row.get("rejected") is not None:
        both = ((row["label"], "chosen, as given"), (row["rejected"], "rejected, as given"))
        return [{"label": label, "shown": label, "source": source} for label, source in both]
    found: dict[str, str] = {}
    for label, source in ((row["label"], "as given"), (row["label_now"], "the run")):
        if label:
            found.setdefault(str(label), source)
    for event in row["events"]:
        for name, note in event["notes"].items():
            answer = note.get("answer") if isinstance(note, Mapping) else None
            if isinstance(answer, str) and answer.strip():
                found.setdefault(answer, name)
    return [
        {"label": label, "shown": label, "source": source}
        for label, source in list(found.items())[:9]
    ]


def queue(index: Index, reviews: Mapping[str, Review], wanted: Filter) -> Places:
    """Return the numbers of the rows that are not reviewed, in the order of a filter; skipped rows come last. int32 [rows]"""
    done = index.places_of(list(reviews))
    places = index.find(wanted)
    skipped = [place for name, place in done.items() if not reviews[name].decides]
    open_rows = places[~np.isin(places, list(done.values()))]
    return np.concatenate([open_rows, places[np.isin(places, skipped)]])


def standing(reader: RunReader, reviews: Mapping[str, Review]) -> dict[str, Any]:
    """Return how many rows are reviewed, and the audit's figures with intervals as far as rows are drawn for it."""
    counts: dict[str, int] = {}
    for review in reviews.values():
        counts[review.action] = counts.get(review.action, 0) + 1
    found = reader.audit()
    return {
        "reviewed": sum(review.decides for review in reviews.values()),
        "actions": counts,
        "audit": None if found is None else _audit(asdict(found)),
    }


def _audit(found: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "status",
        "population",
        "flagged",
        "drawn",
        "answered",
        "estimates",
        "mistaken",
        "missed",
        "notes",
    )
    return {key: found[key] for key in kept}


def undecided(ids: Sequence[str], reviews: Mapping[str, Review]) -> list[str]:
    """Return those of ``ids`` that nobody decided about, in order; skipped rows come last."""
    return [name for name in ids if name not in reviews] + [
        name for name in ids if name in reviews and not reviews[name].decides
    ]
