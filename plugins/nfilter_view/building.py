"""The index of a run: texts in SQLite, with full-text search, and numbers in columns. It is rebuilt when the run changes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from nfilter import Outcome, RunReader, hash_of
from nfilter_view.columns import KINDS, ColumnWriter
from nfilter_view.scores import MOST, disagreement_of, is_flagged, scores_of

FATES: Final = ("kept", "dropped", "unreadable")
ACTIONS: Final = ("unchanged", "relabelled", "dropped", "weighed", "made", "unreadable")
NO_STAGE: Final = 255
TEXTS: Final = "texts.db"
COLUMNS: Final = "columns"
SUMMARY: Final = "summary.json"
_SHOWN: Final = 240
"""Characters of a text that the table shows; more is in the row itself."""
_SEARCHED: Final = 20_000
_KINDS: Final = 400
_VARIES: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[-+]?\d[\d.,]*(?:e[-+]?\d+)?%?")
_TABLES: Final = Path(__file__).with_name("texts.sql")


def build(
    reader: RunReader, folder: Path, facts: Mapping[str, str], tell: Callable[[int], None]
) -> None:
    """Write the index of a run into the new folder ``folder``; ``tell`` is called with the number of rows so far."""
    stages = [stage.label for stage in reader.stages()]
    work = _Work(stages, ColumnWriter(folder / COLUMNS))
    with closing(sqlite3.connect(folder / TEXTS, isolation_level=None)) as db:
        # The file is published whole or not at all, so that it needs no journal of its own.
        for line in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            db.execute(f"PRAGMA {line}")
        db.executescript(_TABLES.read_text(encoding="utf-8"))
        db.execute("BEGIN")
        n = 0
        for block in reader.outcomes():
            _texts(db, block, n)
            work.add(block)
            n += len(block)
            tell(n)
        work.columns.close()
        db.executemany("INSERT INTO kinds VALUES (?, ?, ?)", work.kinds())
        db.executemany("INSERT INTO facts VALUES (?, ?)", list(facts.items()))
        db.execute("CREATE UNIQUE INDEX by_id ON rows (id)")
        db.execute("COMMIT")


def _texts(db: sqlite3.Connection, block: Sequence[Outcome], first: int) -> None:
    rows, bodies = [], []
    for n, row in enumerate(block, start=first):
        question = row.sample.query if row.sample else ""
        now = row.sample.response if row.sample else None
        rows.append(
            (n, _text(row.id), row.chunk, _cut(question), _cut(row.label), _cut(now), _cut(row.reason), _cut(row.truth))
        )  # fmt: skip
        texts = (
            [row.id, *(message.content for message in row.sample.messages)]
            if row.sample
            else [row.id]
        )
        texts += [row.label or "", row.reason]
        bodies.append((n, _text("\n".join(texts)[:_SEARCHED])))
    db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    db.executemany("INSERT INTO found (rowid, body) VALUES (?, ?)", bodies)


def _text(text: str) -> str:
    """``text`` as SQLite can store it: a lone surrogate has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str | None) -> str | None:
    return None if text is None else _text(text[:_SHOWN])


class _Work:
    """The columns of a run as they are made, and the kinds of reasons met so far."""

    def __init__(self, stages: Sequence[str], columns: ColumnWriter) -> None:
        self.columns = columns
        self._stages = {label: number for number, label in enumerate([*stages, "encode"])}
        self._kinds: dict[str, list[int]] = {}

    def add(self, block: Sequence[Outcome]) -> None:
        rows = [self._row(row) for row in block]
        columns = {name: [row[name] for row in rows] for name in KINDS}
        scores = [dict(scores_of(row.sample)) if row.sample else {} for row in block]
        self.columns.add(columns, scores, MOST)

    def kinds(self) -> list[tuple[int, str, int]]:
        return [(code, text, count) for text, (code, count) in self._kinds.items()]

    def _row(self, row: Outcome) -> dict[str, float]:
        made = row.label is None
        changed = not made and row.sample is not None and row.sample.response != row.label
        weight = row.sample.weight if row.sample else 0.0
        flagged = is_flagged(row.sample) if row.sample else None
        return {
            "fate": FATES.index(row.fate),
            "action": ACTIONS.index(_action(row, made=made, changed=changed)),
            "stage": self._stages.get(row.stage or "", NO_STAGE),
            "stages": self._touched(row),
            "reason": self._kind(row.reason),
            "flagged": -1 if flagged is None else int(flagged),
            "wrong": _differs(row.label, row.truth),
            "right_now": _agrees(row),
            "pinned": bool(row.sample and row.sample.pinned),
            "made": made,
            "label": hash_of(row.sample.response) if row.sample else 0,
            "disagreement": disagreement_of(row.sample) if row.sample else float("nan"),
            "weight": weight,
        }

    def _touched(self, row: Outcome) -> int:
        """A bit for every stage that decided more than to keep the row."""
        bits = 0
        for decision in row.decisions:
            number = self._stages.get(decision["stage"], NO_STAGE)
            if decision["action"] != "keep" and number < 32:
                bits |= 1 << number
        return bits

    def _kind(self, reason: str) -> int:
        text = kind_of(reason)
        if text not in self._kinds and len(self._kinds) >= _KINDS:
            text = "other reasons"
        known = self._kinds.setdefault(text, [len(self._kinds), 0])
        known[1] += 1
        return known[0]


def kind_of(reason: str) -> str:
    """A reason without the values in it, so that equal reasons about other rows are one kind."""
    return _VARIES.sub("…", _text(reason))[:_SHOWN] or "no reason"


def _action(row: Outcome, *, made: bool, changed: bool) -> str:
    """Return the word of ``ACTIONS`` for what the run did to a row."""
    if row.sample is None:
        return "unreadable"
    if row.fate == "dropped":
        return "dropped"
    if made:
        return "made"
    if changed:
        return "relabelled"
    return "weighed" if row.sample.weight != 1.0 else "unchanged"


def _differs(label: str | None, truth: str | None) -> int:
    if label is None or truth is None:
        return -1
    return int(label.strip() != truth.strip())


def _agrees(row: Outcome) -> int:
    if row.truth is None or row.sample is None:
        return -1
    return int(row.sample.response.strip() == row.truth.strip())
