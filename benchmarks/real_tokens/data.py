"""Questions with long answers from files of two formats, sampled into rows for training, choosing settings and testing.

Everything that a cell reads is made here from those files, by rules that the page repeats.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.evidence.files import write_once
from nfilter.api.errors import SourceError
from nfilter.store.files import digest

LONGEST: Final = 300
SHORTEST: Final = 100
SPLIT: Final = ("train.jsonl", "test.jsonl")
_WORKED: Final = ("question", "answer")
_ASKED: Final = ("instruction", "input", "output")
_SHAPES: Final = "A data set is a folder with train.jsonl and test.jsonl (question, answer), or with one .json file, a list of objects with instruction, input and output"  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str

    @property
    def fits(self) -> bool:
        """Whether both together are short enough, and the answer long enough for a token method."""
        return len(self.question) + len(self.answer) <= LONGEST and len(self.answer) >= SHORTEST


@dataclass(frozen=True)
class Sizes:
    """The numbers of rows for training, for choosing settings, and for testing."""

    train: int = 48
    dev: int = 24
    test: int = 48

    @classmethod
    def read(cls, text: str) -> Sizes:
        """From ``TRAIN,DEV,TEST``.

        Raises:
            ValueError: when the text is no three numbers above 0.
        """
        train, dev, test = (int(part) for part in text.split(","))
        if min(train, dev, test) < 1:
            raise ValueError(text)
        return cls(train, dev, test)


@dataclass(frozen=True)
class DataSet:
    """One folder: ``given`` rows in its files; of the suitable ones, the ``pool`` for training, and held-out rows."""

    name: str
    given: int
    pool: tuple[Pair, ...]
    dev: tuple[Pair, ...]
    test: tuple[Pair, ...]
    sizes: Sizes

    def train(self, seed: int) -> list[Pair]:
        """The training rows of all lines of a seed."""
        return random.Random(f"train {seed}").sample(self.pool, self.sizes.train)

    @property
    def digest(self) -> str:
        """SHA-256 of the content that is read."""
        parts = [[[p.question, p.answer] for p in part] for part in (self.pool, self.dev, self.test)]  # fmt: skip
        return digest(parts, self.sizes.train)


def find(folder: Path, sizes: Sizes, only: Sequence[str] = ()) -> tuple[list[DataSet], dict[str, str]]:  # fmt: skip
    """Return the datasets among the folders in ``folder``, by name, and for other folders the reason why they are none.

    Raises:
        SourceError: when there is no data set, when ``only`` names one that is not there, or when a file of one cannot be read.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; name the one that holds the data sets (make evidence-real-tokens DATA=FOLDER)")  # fmt: skip
    found, others = [], {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or place.name.startswith("."):
            continue
        files = _files(place)
        if files is None:
            others[place.name] = f"it has neither {' and '.join(SPLIT)} nor one .json file"
        elif not only or place.name in only:
            found.append(_drawn(place.name, [_pairs(file) for file in files], sizes))
    absent = sorted(set(only) - {one.name for one in found})
    if absent or not found:
        told = "; ".join(f"{name}: {why}" for name, why in others.items()) or "it holds no folder"
        wanted = f"no data set {', '.join(absent)}" if absent else "no data set"
        raise SourceError(f"{folder}: {wanted} ({told}). {_SHAPES}")
    return found, others


def _files(place: Path) -> list[Path] | None:
    split = [place / name for name in SPLIT]
    if all(file.is_file() for file in split):
        return split
    lists = sorted(place.glob("*.json"))
    return lists if len(lists) == 1 else None


def _drawn(name: str, parts: Sequence[Sequence[Pair]], sizes: Sizes) -> DataSet:
    """Hold out some of the suitable rows; test rows come from the test file, if there is one."""
    fitting = [[pair for pair in dict.fromkeys(part) if pair.fits] for part in parts]
    pool, asked = fitting[0], fitting[-1]
    needed = sizes.train + sizes.dev + (sizes.test if len(parts) == 1 else 0)
    if len(pool) < needed or len(asked) < sizes.test:
        raise SourceError(
            f"{name}: {len(pool)} rows to train and {len(asked)} to test have {LONGEST} characters or fewer, {SHORTEST} of them or more "
            f"in the answer; {needed} and {sizes.test} are needed: give it more rows, or ask for fewer with --rows TRAIN,DEV,TEST"
        )
    test = random.Random("test").sample(asked, sizes.test)
    questions = {pair.question for pair in test}
    left = [pair for pair in pool if pair.question not in questions]
    dev = random.Random("dev").sample(left, sizes.dev)
    questions = {pair.question for pair in dev}
    rest = tuple(pair for pair in left if pair.question not in questions)
    return DataSet(name, sum(map(len, parts)), rest, tuple(dev), tuple(test), sizes)


def _pairs(file: Path) -> list[Pair]:
    """Return the rows of a file in either format, without rows that have no answer.

    Raises:
        SourceError: when a row is not of the shape; it names file and row.
    """
    out = []
    for number, value in _values(file):
        keys = _WORKED if file.suffix == ".jsonl" else _ASKED
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in keys):
            raise SourceError(f"{file}:{number}: no row with the texts {', '.join(keys)}. {_SHAPES}")  # fmt: skip
        *asked, answer = (value[key].strip() for key in keys)
        if answer:
            out.append(Pair("\n\n".join(part for part in asked if part), answer))
    return out


def _values(file: Path) -> Iterable[tuple[int, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            return [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]  # fmt: skip
        rows = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{file}: {error}; it has to be JSON in UTF-8") from error
    return enumerate(rows if isinstance(rows, list) else [rows], start=1)


@dataclass(frozen=True)
class Files:
    """The files that cells read, in one folder; each is written once from a dataset."""

    folder: Path

    def train(self, one: DataSet, seed: int) -> Path:
        """The rows of a seed, without noise: the recipe inserts it."""
        return self._write(f"{one.name}-s{seed}", one.train(seed))

    def dev(self, one: DataSet) -> Path:
        """The rows for choosing settings."""
        return self._write(f"{one.name}-dev", one.dev)

    def test(self, one: DataSet) -> Path:
        """The test rows."""
        return self._write(f"{one.name}-test", one.test)

    def _write(self, name: str, pairs: Sequence[Pair]) -> Path:
        lines = [_line({"id": f"{name}-{i:04d}", "question": p.question, "answer": p.answer}) for i, p in enumerate(pairs)]  # fmt: skip
        return write_once(self.folder / f"{name}.jsonl", "".join(lines))


def _line(value: Mapping[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
