"""Data sets of a folder: rows whose truth is known, published files of the same rows with wrong labels, test rows.

Everything that a cell reads is made here from those files, by rules that the page repeats.
"""

from __future__ import annotations

import csv
import io
import json
import random
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.evidence.files import write_once
from nfilter.api.errors import SourceError
from nfilter.store.files import digest

TRUTH: Final = "labeled.csv"
TEST: Final = "test.csv"
LEVELS: Final = (30, 50, 70)
TRUSTED: Final = 100
DEV_ROWS: Final = 200
HEAD: Final = ("row", "question", "options", "answer", "truth", "trusted")
_COLUMNS: Final = ("question", "options", "answer")


@dataclass(frozen=True)
class Row:
    """A question, its options and the letter of an option."""

    question: str
    options: tuple[str, ...]
    answer: str

    @property
    def letters(self) -> str:
        """The letters of the options."""
        return string.ascii_uppercase[: len(self.options)]


@dataclass(frozen=True)
class DataSet:
    """One folder: ``noisy`` has the published labels by level, of the rows of ``truth`` in their order."""

    name: str
    truth: tuple[Row, ...]
    noisy: dict[int, tuple[str, ...]]
    test: tuple[Row, ...]

    @property
    def closed(self) -> bool:
        """Whether all rows have the same options, so that an answer is one of few classes."""
        return len({frozenset(row.options) for row in (*self.truth, *self.test)}) == 1

    @property
    def frequent(self) -> float:
        """The share of test rows that the most frequent answer of ``truth`` gets right: a text, or else a letter."""
        keys = [[row.options[row.letters.index(row.answer)] if self.closed else row.answer for row in part] for part in (self.truth, self.test)]  # fmt: skip
        most = Counter(keys[0]).most_common(1)[0][0]
        return keys[1].count(most) / len(keys[1])

    @property
    def digest(self) -> str:
        """SHA-256 of the content that is read."""
        rows = [[[r.question, list(r.options), r.answer] for r in part] for part in (self.truth, self.test)]  # fmt: skip
        return digest(rows, {str(level): list(labels) for level, labels in self.noisy.items()})

    def nameless(self, level: int) -> int:
        """How many published labels of a level are the letter of no option of their row."""
        labels = zip(self.truth, self.noisy[level], strict=True)
        return sum(label not in row.letters for row, label in labels)

    def labels(self, level: int, seed: int) -> tuple[str, ...]:
        """The labels at a level: those of the published file for seed 0, else drawn anew by ``flipped``."""
        return self.noisy[level] if seed == 0 else flipped(self.truth, level, seed)

    def by_rule(self, level: int) -> bool:
        """Whether the published file has its wrong labels in the rows that ``flipped`` takes with seed 0."""
        wrong = {i for i, row in enumerate(self.truth) if row.answer != self.noisy[level][i]}
        return wrong == set(_chosen(random.Random(0), len(self.truth), level))


def _chosen(rng: random.Random, n: int, level: int) -> list[int]:
    return rng.sample(range(n), int(n * (level / 100)))


def flipped(rows: Sequence[Row], level: int, seed: int) -> tuple[str, ...]:
    """The labels with ``level`` percent of them wrong, drawn with ``seed``.

    The rows are ``random.Random(seed).sample(range(n), int(n * level / 100))``, as in the published files, which do not say
    how the wrong letter is drawn: here the same generator goes on with ``choice`` among the other letters, row by row.
    """
    rng = random.Random(seed)
    out = [row.answer for row in rows]
    for place in _chosen(rng, len(rows), level):
        out[place] = rng.choice([x for x in rows[place].letters if x != rows[place].answer])
    return tuple(out)


def find(folder: Path, only: Sequence[str] = ()) -> tuple[list[DataSet], dict[str, str]]:
    """Return the datasets among the folders in ``folder``, by name, and for other folders the reason why they are none.

    Raises:
        SourceError: when there is no data set, when ``only`` names one that is not there, or when a file of one cannot be read.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; name the one that holds the data sets (make evidence-real DATA=FOLDER)")  # fmt: skip
    found, others = [], {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or place.name.startswith("."):
            continue
        missing = [name for name in (TRUTH, TEST) if not (place / name).is_file()]
        levels = [p for p in range(1, 100) if (place / "noisy" / f"noisy{p}.csv").is_file()]
        missing += [] if levels else ["noisy/noisyNN.csv"]
        if missing:
            others[place.name] = f"it has no {', no '.join(missing)}"
        elif not only or place.name in only:
            found.append(read(place, levels))
    absent = sorted(set(only) - {one.name for one in found})
    if absent or not found:
        told = "; ".join(f"{name}: {why}" for name, why in others.items()) or "it holds no folder"
        wanted = f"no data set {', '.join(absent)}" if absent else "no data set"
        raise SourceError(f"{folder}: {wanted} ({told}). A data set is a folder with {TRUTH}, {TEST} and noisy/noisyNN.csv")  # fmt: skip
    return found, others


def read(folder: Path, levels: Iterable[int]) -> DataSet:
    """One data set.

    Raises:
        SourceError: when a file has no such columns, a row no such answer, or a noisy file other rows than the truth.
    """
    truth, test = _rows(folder / TRUTH), _rows(folder / TEST)
    noisy = {}
    for level in levels:
        file = folder / "noisy" / f"noisy{level}.csv"
        rows = _rows(file, strict=False)
        if [(r.question, r.options) for r in rows] != [(r.question, r.options) for r in truth]:
            raise SourceError(f"{file}: its questions and options are not those of {folder / TRUTH}, row by row; the truth of a row would not be known")  # fmt: skip
        noisy[level] = tuple(row.answer for row in rows)
    return DataSet(folder.name, truth, noisy, test)


def _rows(file: Path, *, strict: bool = True) -> tuple[Row, ...]:
    out = []
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise SourceError(f"{file}:1: no column {', '.join(missing)}; it needs question, options (a JSON list) and answer (a letter)")  # fmt: skip
        for value in _read(reader, file):
            try:
                options = json.loads(value["options"])
                row = Row(value["question"], tuple(map(str, options)), value["answer"].strip())
            except (ValueError, TypeError) as error:
                raise SourceError(f"{file}:{reader.line_num}: options {value['options']!r} are no JSON list ({error})") from error  # fmt: skip
            if not row.answer or (strict and row.answer not in row.letters):
                raise SourceError(f"{file}:{reader.line_num}: the answer {row.answer!r} is none of {', '.join(row.letters)}, the letters of its options")  # fmt: skip
            out.append(row)
    if not out:
        raise SourceError(f"{file}: it holds no rows")
    return tuple(out)


def _read(reader: csv.DictReader[str], file: Path) -> Iterator[dict[str, str]]:
    try:
        for value in reader:
            if None in value or None in value.values():
                raise SourceError(f"{file}:{reader.line_num}: the row has not as many cells as the first line has names")  # fmt: skip
            yield value
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{file}:{reader.line_num}: {error}; it has to be CSV in UTF-8") from error  # fmt: skip


def trusted(n: int, seed: int) -> set[int]:
    """The places of the rows whose label somebody has checked: ``random.Random("trusted SEED").sample``."""
    return set(random.Random(f"trusted {seed}").sample(range(n), min(TRUSTED, n)))


def held_out(n: int) -> set[int]:
    """The places of the rows of the truth that settings are chosen on, a quarter of a small set: ``random.Random("dev").sample``."""
    return set(random.Random("dev").sample(range(n), min(DEV_ROWS, n // 4)))


@dataclass(frozen=True)
class Files:
    """The files that cells read, in one folder; each is written once from a dataset."""

    folder: Path

    def train(self, one: DataSet, level: int, seed: int) -> Path:
        """Rows with the labels of that level; level 0 is the truth."""
        labels = one.labels(level, seed) if level else [row.answer for row in one.truth]
        return self._write(f"{one.name}-{level}-s{seed}.csv", one, labels)

    def checked(self, one: DataSet, level: int, seed: int) -> Path:
        """The same where a hundred labels were checked: those are right, and marked."""
        sure = trusted(len(one.truth), seed)
        labels = one.labels(level, seed)
        right = [row.answer if i in sure else labels[i] for i, row in enumerate(one.truth)]
        return self._write(f"{one.name}-{level}-s{seed}-checked.csv", one, right, sure)

    def alone(self, one: DataSet, seed: int) -> Path:
        """The checked rows and no others."""
        sure = sorted(trusted(len(one.truth), seed))
        few = replace(one, truth=tuple(one.truth[i] for i in sure))
        return self._write(f"{one.name}-s{seed}-alone.csv", few, [r.answer for r in few.truth], places=sure)  # fmt: skip

    def dev(self, one: DataSet) -> tuple[Path, Path]:
        """The truth without the rows that are held out, and those rows."""
        out = held_out(len(one.truth))
        parts = [[i for i in range(len(one.truth)) if (i in out) is held] for held in (False, True)]
        files = []
        for name, places in zip(("fit", "dev"), parts, strict=True):
            few = replace(one, truth=tuple(one.truth[i] for i in places))
            labels = [row.answer for row in few.truth]
            files.append(self._write(f"{one.name}-{name}.csv", few, labels, places=places))
        return files[0], files[1]

    def test(self, one: DataSet) -> Path:
        """The test rows."""
        few = replace(one, name=f"{one.name}-test", truth=one.test)
        return self._write(f"{few.name}.csv", few, [row.answer for row in one.test])

    def as_given(self, one: DataSet, level: int, seed: int) -> Path:
        """The rows as somebody has them who knows no truth."""
        labels = one.labels(level, seed)
        rows = [[r.question, json.dumps(r.options), x] for r, x in zip(one.truth, labels, strict=True)]  # fmt: skip
        return self._publish(f"{one.name}-{level}-s{seed}-as-given.csv", _COLUMNS, rows)

    def _write(
        self,
        name: str,
        one: DataSet,
        labels: Sequence[str],
        sure: set[int] | None = None,
        places: Sequence[int] | None = None,
    ) -> Path:
        head = HEAD if sure is not None else HEAD[:-1]
        rows = []
        for i, (row, label) in enumerate(zip(one.truth, labels, strict=True)):
            number = f"{one.name}-{i if places is None else places[i]:05d}"
            marks = [] if sure is None else [str(i in sure).lower()]
            rows.append([number, row.question, json.dumps(row.options), label, row.answer, *marks])
        return self._publish(name, head, rows)

    def _publish(self, name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
        return write_once(self.folder / name, text.getvalue())
