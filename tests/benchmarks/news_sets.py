"""Data sets of classified news, made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from benchmarks.real_evidence.data import DataSet, Row, flipped

N, QUESTIONS = 40, 40
OPTIONS = ("bad", "so so", "good")
WORDS = {"bad": "loss fell", "so so": "met today", "good": "profit rose"}


def rows_of(n: int, start: int = 0) -> tuple[Row, ...]:
    kinds = [OPTIONS[(i + start) % 3] for i in range(n)]
    return tuple(
        Row(f"{WORDS[kind]} in year {1900 + i + start}?", OPTIONS, "ABC"[OPTIONS.index(kind)])
        for i, kind in enumerate(kinds)
    )


def write(file: Path, rows: tuple[Row, ...], labels: tuple[str, ...] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["question", "gt", "options", "answer"])
        for row, label in zip(rows, labels or [r.answer for r in rows], strict=True):
            writer.writerow([row.question, "not read", json.dumps(row.options), label])


def make(
    folder: Path, name: str = "news", levels: tuple[int, ...] = (30, 50, 70), n: int = N
) -> Path:
    rows = rows_of(n)
    write(folder / name / "labeled.csv", rows)
    write(folder / name / "test.csv", rows_of(12, start=n))
    for percent in levels:
        write(folder / name / "noisy" / f"noisy{percent}.csv", rows, flipped(rows, percent, 0))
    return folder


def other(name: str, n: int = 30) -> DataSet:
    """A data set whose rows have options of their own."""
    rows = tuple(Row(f"Which of {i}?", (f"{i}", f"{i + 1}", f"{i + 2}"), "A") for i in range(n))
    return DataSet(name, rows, {50: flipped(rows, 50, 0)}, rows[:5])
