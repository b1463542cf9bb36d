"""Data sets of texts, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.real_tokens.data import LONGEST, Sizes

SIZES = Sizes(train=8, dev=3, test=4)
WORDS = [
    "the",
    "farmer",
    "sells",
    "seven",
    "green",
    "apples",
    "and",
    "buys",
    "three",
    "small",
    "boxes",
    "of",
    "honey",
    "for",
    "his",
    "old",
    "friends",
]


def text(number: int, words: int = 24) -> str:
    return (
        " ".join(WORDS[(number * (i + 1) + i * i) % len(WORDS)] for i in range(words))
        + f" {number}"
    )


def make(folder: Path, n: int = 30) -> Path:
    """A folder with a data set of each shape, and one of neither."""
    worked = folder / "sums"
    worked.mkdir(parents=True)
    for name, first, many in (("train", 0, n), ("test", 1000, 10)):
        rows = [
            {"question": f"How many is {i}?", "answer": text(i)} for i in range(first, first + many)
        ]
        rows.append({"question": "Short?", "answer": "yes"})
        rows.append({"question": "Long?", "answer": "x" * (LONGEST + 1)})
        (worked / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = folder / "tasks"
    asked.mkdir()
    rows = [
        {"instruction": f"Tell of {i}.", "category": "qa", "input": "", "output": text(i)}
        for i in range(n)
    ]
    rows[0]["input"] = "A text beside it."
    (asked / "all.json").write_text(json.dumps(rows))
    (folder / "else").mkdir()
    return folder
