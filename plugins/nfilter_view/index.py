"""Queries over the index of a run: filters, order, pages, histograms, calibration."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nfilter import wilson
from nfilter_view.building import ACTIONS, COLUMNS, FATES, SUMMARY, TEXTS
from nfilter_view.columns import Columns

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]

_KEPT: Final = 6
"""Answers that are kept: 4 bytes per matching row each."""
_BINS: Final = 40
_DECADES: Final = 3.0
"""A score of positive values that spans more is shown on a logarithmic axis."""
_PARTS: Final = 10


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter and an order of rows. A field that is None does not filter.

    Attributes:
        fate: ``kept``, ``dropped`` or ``unreadable``.
        action: One of ``ACTIONS``.
        stage: The label of a stage that decided more than to keep the row.
        reason: The code of a kind of reason.
        flagged: Whether the last verdict flags the label.
        wrong: Whether the label as given differs from the true one.
        text: Words that all occur in the row; the last may be the beginning of one.
        score: A score whose range ``low`` to ``high`` counts; ``disagreement`` and ``weight`` are scores too.
        conflict: Whether views disagree.
        sort: A score, or ``borderline``; the order of the source without it.
        descending: Reverse the order.
    """

    fate: str | None = None
    action: str | None = None
    stage: str | None = None
    reason: int | None = None
    flagged: bool | None = None
    wrong: bool | None = None
    text: str = ""
    score: str | None = None
    low: float | None = None
    high: float | None = None
    conflict: bool | None = None
    sort: str | None = None
    descending: bool = False


class Index:
    """The index of one run, read by several threads. Answers of the last filters are kept."""

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        self.columns = Columns(folder / COLUMNS)
        self._stages = [*stages, "encode"]
        uri = f"{(folder / TEXTS).resolve().as_uri()}?mode=ro&immutable=1"
        self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
        # An index of a run that is gone is dropped, not closed; its file is closed all the same.
        self._close = weakref.finalize(self, self._db.close)
        self._lock = threading.Lock()
        self._answers: OrderedDict[Filter, Places] = OrderedDict()
        self._summary: dict[str, Any] | None = None
        self._written = folder / SUMMARY
        self._main: str | None = next(
            (name for name in reversed(self.scores()) if name.endswith(".noise_score")), None
        )

    def close(self) -> None:
        """Close the file of texts."""
        with self._lock:
            self._close()

    def summary(self) -> dict[str, Any]:
        """Return what the whole run is filtered and sorted by, as ``write_summary`` wrote it."""
        if self._summary is None:
            self._summary = json.loads(self._written.read_text(encoding="utf-8"))
        return self._summary

    def write_summary(self) -> None:
        """Compute the summary from the columns, once per index: a server that opens the index reads one small file."""
        summary = {
            "scores": self.scores(),
            "main": self.main_score,
            "cut": self.cut(),
            "kinds": self.kinds(),
            "counts": self.counts(),
            "calibration": self.calibration(),
            "truth": bool((self.columns.of("wrong") >= 0).any()),
        }
        self._written.write_text(json.dumps(summary), encoding="utf-8")

    def scores(self) -> list[str]:
        """Return the names of the scores."""
        return list(self.columns.scores)

    @property
    def main_score(self) -> str | None:
        """The noise score of the last verdict; None without one."""
        return self._main

    def kinds(self) -> list[dict[str, Any]]:
        """Return the kinds of reasons, the most frequent first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT code, text, rows FROM kinds ORDER BY rows DESC"
            ).fetchall()
        return [{"code": code, "text": text, "rows": count} for code, text, count in rows]

    def find(self, wanted: Filter) -> Places:
        """Return the numbers of the matching rows in the order of the filter, int32 [matches].

        Raises:
            ValueError: if the filter names something that the run does not have.
        """
        with self._lock:
            if wanted in self._answers:
                self._answers.move_to_end(wanted)
                return self._answers[wanted]
        places = self._ordered(self._mask(wanted), wanted)
        with self._lock:
            self._answers[wanted] = places
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return places

    def page(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of these numbers as the table shows them, in the order given."""
        numbers = [int(place) for place in places]
        marks = ",".join("?" * len(numbers))
        with self._lock:
            found = self._db.execute(
                f"SELECT n, id, question, given, now, reason FROM rows WHERE n IN ({marks})",  # noqa: S608 - marks alone
                numbers,
            ).fetchall()
        by_number = {row[0]: row for row in found}
        return [self._as_listed(by_number[n]) for n in numbers if n in by_number]

    def place(self, row: str) -> tuple[int, int] | None:
        """Return the number of the row with an id, and that of its chunk; None where there is none."""
        with self._lock:
            found = self._db.execute("SELECT n, chunk FROM rows WHERE id = ?", (row,)).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    def places_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the numbers of rows by id; unknown ids are left out."""
        found: dict[str, int] = {}
        with self._lock:
            # SQLite limits the number of parameters of a query.
            for start in range(0, len(ids), 500):
                part = list(ids[start : start + 500])
                marks = ",".join("?" * len(part))
                query = f"SELECT id, n FROM rows WHERE id IN ({marks})"  # noqa: S608 - marks alone
                found.update(self._db.execute(query, part))
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of rows by fate and by action."""
        out = {}
        for name, words in (("fate", FATES), ("action", ACTIONS)):
            counted = np.bincount(self.columns.of(name), minlength=len(words))
            out[name] = {
                word: int(count) for word, count in zip(words, counted, strict=True) if count
            }
        return out

    def cut(self) -> float | None:
        """Return the noise score that best separates flagged rows from others; None without flags of both kinds."""
        if self._main is None:
            return None
        flags, scores = self.columns.of("flagged"), self.columns.score(self._main)
        known = (flags >= 0) & np.isfinite(scores)
        flagged, values = flags[known] == 1, np.asarray(scores[known])
        if not flagged.any() or flagged.all():
            return None
        order = np.argsort(values, kind="stable")
        # Flagged rows at or below the cut and others above it are on the wrong side.
        above = np.concatenate([[0], np.cumsum(flagged[order])])
        wrong = above + ((~flagged).sum() - (np.arange(len(order) + 1) - above))
        at = int(np.argmin(wrong))
        edges = values[order]
        low = edges[at - 1] if at else edges[0]
        return float((low + edges[min(at, len(edges) - 1)]) / 2)

    def histogram(self, name: str) -> dict[str, Any] | None:
        """Return the counts of a score by bin, split by flag and, where it is known, by truth; None without values."""
        values = np.asarray(self._score(name), dtype=np.float64)
        known = np.isfinite(values)
        if not known.any():
            return None
        low, high = float(values[known].min()), float(values[known].max())
        share = name.endswith(".noise_score") and low >= 0 and high <= 1
        if share:
            low, high = 0.0, 1.0
        elif low == high:
            low, high = low - 0.5, high + 0.5
        log = not share and low > 0 and np.log10(high / low) > _DECADES
        edges = np.geomspace(low, high, _BINS + 1) if log else np.linspace(low, high, _BINS + 1)
        flagged, wrong = self.columns.of("flagged") == 1, self.columns.of("wrong")

        def counted(mask: Mask) -> list[int]:
            inside = np.clip(values[mask & known], low, high)
            return [int(count) for count in np.histogram(inside, edges)[0]]

        parts = {"plain": counted(~flagged), "flagged": counted(flagged)}
        truth = {"right": counted(wrong == 0), "wrong": counted(wrong == 1)}
        return {
            "score": name,
            "edges": edges.tolist(),
            "log": bool(log),
            **parts,
            "truth": truth if (wrong >= 0).any() else None,
            "undefined": int((~known).sum()),
            "cut": self.summary()["cut"] if name == self._main else None,
        }

    def calibration(self) -> list[dict[str, Any]]:
        """Return, by tenth of the noise score, the mean score and the share of labels that are wrong in truth."""
        if self._main is None:
            return []
        scores, wrong = self.columns.score(self._main), self.columns.of("wrong")
        known = (wrong >= 0) & np.isfinite(scores)
        values, truth = np.asarray(scores[known], dtype=np.float64), wrong[known] == 1
        bins = np.minimum((values * _PARTS).astype(int), _PARTS - 1)
        out = []
        for part in range(_PARTS):
            inside = bins == part
            if n := int(inside.sum()):
                k = int(truth[inside].sum())
                low, high = wilson(k, n) or (0.0, 1.0)
                out.append(
                    {
                        "score": float(values[inside].mean()),
                        "wrong": k / n,
                        "low": low,
                        "high": high,
                        "n": n,
                    }
                )
        return out

    def _as_listed(self, row: Sequence[Any]) -> dict[str, Any]:
        """Return a row of the database as the page's list of rows takes it."""
        n, name, question, given, now, reason = row
        at = {key: self.columns.of(key)[n] for key in ("fate", "action", "flagged", "disagreement")}
        scores = {key: float(self.columns.score(key)[n]) for key in self.scores()}
        return {
            "n": n,
            "id": name,
            "question": question,
            "given": given,
            "now": now,
            "reason": reason,
            "fate": FATES[int(at["fate"])],
            "action": ACTIONS[int(at["action"])],
            "flagged": bool(at["flagged"] == 1),
            "disagreement": None if np.isnan(at["disagreement"]) else float(at["disagreement"]),
            "scores": {key: value for key, value in scores.items() if np.isfinite(value)},
        }

    def _mask(self, wanted: Filter) -> Mask:
        mask = np.ones(self.columns.rows, dtype=bool)
        for name, words, word in (("fate", FATES, wanted.fate), ("action", ACTIONS, wanted.action)):
            if word is not None:
                mask &= self.columns.of(name) == _code(name, words, word)
        if wanted.stage is not None:
            mask &= self._decided_by(wanted.stage)
        if wanted.reason is not None:
            mask &= self.columns.of("reason") == wanted.reason
        for name, flag in (("flagged", wanted.flagged), ("wrong", wanted.wrong)):
            if flag is not None:
                mask &= self.columns.of(name) == int(flag)
        if wanted.conflict:
            mask &= self.columns.of("disagreement") > 0
        if wanted.score is not None:
            mask &= self._between(self._score(wanted.score), wanted.low, wanted.high)
        if wanted.text.strip():
            mask &= self._matching(wanted.text)
        return mask

    def _decided_by(self, label: str) -> Mask:
        """The rows about which a stage decided more than to keep them. bool [rows]"""
        number = _code("stage", self._stages, label)
        at_end: Mask = self.columns.of("stage") == number
        if number >= 32:
            return at_end
        touched: Mask = (self.columns.of("stages") >> np.uint32(number)) & 1 == 1
        return at_end | touched

    @staticmethod
    def _between(values: npt.NDArray[np.float32], low: float | None, high: float | None) -> Mask:
        mask: Mask = np.isfinite(values)
        if low is not None:
            mask &= values >= np.float32(low)
        if high is not None:
            mask &= values <= np.float32(high)
        return mask

    def _matching(self, text: str) -> Mask:
        """The rows in which all words of ``text`` occur, the last as the beginning of a word. bool [rows]"""
        mask = np.zeros(self.columns.rows, dtype=bool)
        words = re.findall(r"\w+", text)
        if not words:
            return mask
        # Quoted words have no search syntax.
        query = " ".join(f'"{word}"' for word in words) + "*"
        with self._lock:
            # One text in place of a million objects: half of the time of such a search.
            found = "SELECT group_concat(rowid) FROM found WHERE found MATCH ?"
            (numbers,) = self._db.execute(found, (query,)).fetchone()
        if numbers is not None:
            mask[np.fromstring(numbers, dtype=np.int64, sep=",")] = True
        return mask

    def _ordered(self, mask: Mask, wanted: Filter) -> Places:
        places = np.flatnonzero(mask).astype(np.int32)
        if wanted.sort is None:
            return places[::-1] if wanted.descending else places
        if wanted.sort == "borderline":
            keys = self._borderline()[places]
        else:
            keys = np.asarray(self._score(wanted.sort)[places])
        return places[_order(-keys if wanted.descending else keys)]

    def _borderline(self) -> npt.NDArray[np.float32]:
        """How clear a row is: the distance of its noise score from the cut, less half of the disagreement of its views."""
        conflict = np.nan_to_num(np.asarray(self.columns.of("disagreement")))
        if self._main is None:
            return np.asarray(-conflict, dtype=np.float32)
        cut = self.summary()["cut"]
        distance = np.abs(self.columns.score(self._main) - np.float32(0.5 if cut is None else cut))
        return np.asarray(distance - conflict / 2, dtype=np.float32)

    def _score(self, name: str) -> npt.NDArray[np.float32]:
        try:
            return self.columns.score(name)
        except KeyError as error:
            known = ", ".join(("borderline", "disagreement", "weight", *self.scores()))
            raise ValueError(f"no score {name!r:.80}; the run has {known}") from error


def _order(keys: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return what ``np.argsort(keys, kind="stable")`` returns, NaN last, in a sixth of its time. float32 [rows] to int64 [rows]

    A key and its place are one whole number, so that numpy's vectorised sort of whole numbers orders both: the bits of floats
    are ordered as the floats are once those of negative values are inverted and the sign of the others is set.
    """
    bits = (keys + np.float32(0)).view(np.uint32)  # -0.0 + 0 is 0.0: both are equal keys
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    ordered[np.isnan(keys)] = np.iinfo(np.uint32).max
    both = (ordered.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64)
    both.sort()
    return (both & np.uint64(np.iinfo(np.uint32).max)).astype(np.int64)


def _code(what: str, words: Sequence[str], word: str) -> int:
    if word not in words:
        raise ValueError(f"no {what} {word!r:.80}; it is one of {', '.join(words)}")
    return list(words).index(word)


def filter_of(values: Mapping[str, str]) -> Filter:
    """Return the filter that the parameters of a request describe.

    Raises:
        ValueError: if a parameter is invalid; the message names it.
    """
    words: dict[str, Any] = {
        name: values[name]
        for name in ("fate", "action", "stage", "text", "score", "sort")
        if values.get(name)
    }
    flags: dict[str, Any] = {
        name: _flag(name, values[name])
        for name in ("flagged", "wrong", "conflict", "descending")
        if values.get(name)
    }
    numbers: dict[str, Any] = {
        name: _number(name, values[name]) for name in ("low", "high") if values.get(name)
    }
    if values.get("reason"):
        numbers["reason"] = int(_number("reason", values["reason"]))
    return Filter(**words, **flags, **numbers)


def _flag(name: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ValueError(f"{name} is {value!r:.80}; write yes or no")
    return value == "yes"


def _number(name: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r:.80}, not a number") from error
    if not np.isfinite(found):
        raise ValueError(f"{name} is {value!r:.80}, not a finite number")
    return found
