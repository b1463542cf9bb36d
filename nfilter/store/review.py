"""Decisions of people about the rows of a run: review.jsonl, one line per decision, and the last one about a row counts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from nfilter.api.errors import StoreError, did_you_mean
from nfilter.api.file_errors import file_advice, write_error

REVIEW: Final = "review.jsonl"

Action = Literal["accept", "relabel", "drop", "skip"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
"""What a person may decide about a row."""


@dataclass(frozen=True, slots=True)
class Review:
    """What a person decided about one row.

    Attributes:
        id: The row, one of the source's.
        action: What the person chose. ``accept`` agrees with what the run did to the row.
        label: The label that the row ends with; None where it is dropped, or nothing is decided (``skip``).
        given: The label that the source had when the person decided. The decision is not used for a row with another one.
        why: The person's reason; may be empty.
        who: The person's name; may be empty.
        when: The time in UTC, ISO 8601.
        draw: The draw of an audit (``Draw.name``) in whose random order the row was shown; empty where a person chose the row,
            or an order that depends on its scores.
    """

    id: str
    action: Action
    label: str | None
    given: str
    why: str = ""
    who: str = ""
    when: str = ""
    draw: str = ""

    @property
    def decides(self) -> bool:
        """Whether the row's end is decided: it is kept with ``label``, or dropped where that is None."""
        return self.action != "skip"

    @property
    def label_is_right(self) -> bool | None:
        """Whether the label that the source gave is right; a dropped row counts as wrong. None where nothing is decided."""
        if not self.decides:
            return None
        return self.label is not None and self.label.strip() == self.given.strip()

    def reason(self) -> str:
        """The decision as the record of a run has it."""
        by = f" by {self.who}" if self.who else ""
        why = f": {self.why}" if self.why.strip() else ""
        return f"reviewed{by} ({self.action}){why}"


def read_reviews(run_dir: Path) -> dict[str, Review]:
    """Read the last decision about each row of a run, by id; empty where nobody has reviewed a row.

    Raises:
        StoreError: names file, line and field of each fault.
    """
    path = run_dir / REVIEW
    if not path.is_file():
        return {}
    found: dict[str, Review] = {}
    faults: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            review = review_of(json.loads(line))
        except (ValueError, RecursionError) as error:
            faults.append(f"{path}:{number}: {error}; mend the line or remove it")
            continue
        before = found.pop(review.id, None)
        if before is not None and not review.draw:
            # That the row was shown in the order of a draw stays true when a person decides again.
            review = replace(review, draw=before.draw)
        found[review.id] = review
    if faults:
        raise StoreError("\n".join(faults[:8]))
    return found


def review_of(value: Any) -> Review:
    """Return the decision in a JSON object.

    Raises:
        ValueError: names the field that has another form.
    """
    if not isinstance(value, Mapping):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a fault of form
    unknown = sorted(set(value) - set(Review.__slots__))
    if unknown:
        raise ValueError(
            f"unknown field {unknown[0]!r}{did_you_mean(unknown[0], Review.__slots__)}"
        )
    action = value.get("action")
    if action not in ACTIONS:
        raise ValueError(f"action is {action!r:.80}; write one of {', '.join(ACTIONS)}")
    texts = {name: value.get(name, "") for name in ("id", "given", "why", "who", "when", "draw")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r:.80}, not a text")  # noqa: TRY004 - a fault of form
    if not texts["id"]:
        raise ValueError("id is missing; write the id of a row")
    label = value.get("label")
    if action == "relabel" and not isinstance(label, str):
        raise ValueError("relabel needs the new label; write it as a text under label")
    if not (label is None or isinstance(label, str)):
        raise ValueError(f"label is {label!r:.80}, not a text or null")
    if action in ("drop", "skip") and label is not None:
        raise ValueError(f"{action} has no label; write null under label")
    return Review(action=action, label=label, **texts)


def append_reviews(run_dir: Path, reviews: Sequence[Review]) -> None:
    """Append decisions to review.jsonl and write them to the disk; those without a time get the present one.

    Raises:
        StoreError: when the file cannot be written.
    """
    path = run_dir / REVIEW
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [
        json.dumps({**asdict(each), "when": each.when or now}, ensure_ascii=False)
        for each in reviews
    ]
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    try:
        # One write of whole lines: two processes do not mix theirs.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise write_error(path, error) from error


def decided(reviews: Iterable[Review]) -> dict[str, Review]:
    """Return the decisions that decide something, by id."""
    return {review.id: review for review in reviews if review.decides}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error}); {file_advice(path, error)}"
        ) from error
