"""CSV as records, at the memory of one record. A broken quote costs its own line, not the rest of the file."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from nfilter import SourceError, Unreadable
from nfilter_io.cells import EXCERPT, Record, RowError, clean, excerpt, shown
from nfilter_io.config import CsvConfig
from nfilter_io.lines import bounded_line, decoded, opened

_OTHER_DELIMITERS: Final = ";\t|"


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    whole: bool


class _TooLongError(Exception):
    """A record is larger than what one row may take."""


class _Feed:
    """Hands physical lines to the csv module, and remembers those of the record at work to give them again."""

    def __init__(self, file: IO[bytes], config: CsvConfig) -> None:
        self._file = file
        self._config = config
        self._again: deque[_Line] = deque()
        self._number = 0
        self.size = 0
        self.lines: list[_Line] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._next()
        self.lines.append(line)
        self.size += len(line.text)
        if not line.whole or self.size > self._config.max_line_bytes:
            raise _TooLongError
        return line.text

    def _next(self) -> _Line:
        data, whole = bounded_line(self._file, self._config.max_line_bytes)
        if not data:
            raise StopIteration
        self._number += 1
        return _Line(self._number, decoded(data, self._config.encoding), whole)

    def begin(self) -> None:
        """A new record starts."""
        self.lines = []
        self.size = 0

    def retreat(self) -> None:
        """Give all lines of the record again but its first."""
        self._again.extendleft(reversed(self.lines[1:]))

    @property
    def raw(self) -> str:
        """The start of the record's text."""
        return "".join(line.text[: 2 * EXCERPT] for line in self.lines[:20])[: 2 * EXCERPT]


@contextmanager
def _field_limit(size: int) -> Iterator[None]:
    # the csv module's limit is one for the whole process: it is raised for one call, then put back
    before = csv.field_size_limit(size)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def delimiter_of(path: Path, config: CsvConfig) -> str:
    """The delimiter told, else a tab for ``.tsv`` and a comma for all else."""
    return config.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")


def csv_rows(path: Path, config: CsvConfig) -> Iterator[Record | Unreadable]:
    """The rows under the header. Raises SourceError where there is no header that names every column once."""
    delimiter = delimiter_of(path, config)
    with opened(path, config.encoding) as file:
        feed = _Feed(file, config)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        header = _header(path, feed, reader, config, delimiter)
        yield from _rows(feed, reader, header, config, delimiter)


def _header(path: Path, feed: _Feed, reader: Any, config: CsvConfig, delimiter: str) -> list[str]:
    header: list[str] = []
    try:
        with _field_limit(config.max_line_bytes):
            while not header:
                feed.begin()
                header = next(reader)
        names = [str(clean(name)) for name in header]
    except StopIteration:
        raise SourceError(
            f"{path}: is empty; a CSV file starts with a line of column names"
        ) from None
    except (csv.Error, _TooLongError, RowError) as error:
        why = str(error) or f"is longer than {config.max_line_bytes} bytes"
        raise SourceError(f"{path}:1: the line of column names cannot be read: {why}") from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{path}:1: two columns have the name {shown(twice)}; rename one")
    other = next((char for char in _OTHER_DELIMITERS if char in names[0]), None)
    if len(names) == 1 and other is not None and other != delimiter:
        raise SourceError(
            f"{path}:1: has one column, {shown(names[0])}; type `delimiter: {other!r}` if that parts them"
        )
    return names


def _rows(
    feed: _Feed, reader: Any, header: list[str], config: CsvConfig, delimiter: str
) -> Iterator[Record | Unreadable]:
    plain = _plain_record(delimiter)
    doubtful = False  # after a broken quote, until a record without any oddity
    while True:
        feed.begin()
        try:
            with _field_limit(config.max_line_bytes):
                cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _TooLongError) as error:
            first = feed.lines[0]
            long = f"the record is longer than {config.max_line_bytes} bytes (max_line_bytes)"
            why = f"the record is not CSV: {error}" if isinstance(error, csv.Error) else long
            yield Unreadable(first.number, why, excerpt(first.text[: 2 * EXCERPT]))
            feed.retreat()
            doubtful = True
            continue
        if not cells:
            continue
        number = feed.lines[0].number
        if len(cells) != len(header):
            why = f"the record has {len(cells)} cells, the header {len(header)}"
            yield Unreadable(number, why, excerpt(feed.raw))
            continue
        if doubtful:
            whole = "".join(line.text for line in feed.lines).rstrip("\r\n")
            if plain.fullmatch(whole) is None:
                why = "the record may be the rest of one with a broken quote"
                yield Unreadable(number, why, excerpt(feed.raw))
                continue
            doubtful = False
        yield Record(number, dict(zip(header, cells, strict=True)), feed.raw, feed.size)


def _plain_record(delimiter: str) -> re.Pattern[str]:
    """A record by RFC 4180: a quote stands only around a cell, or twice inside one."""
    d = re.escape(delimiter)
    cell = rf'(?:"(?:[^"]++|"")*+"|[^"\r\n{d}]*+)'
    return re.compile(rf"{cell}(?:{d}{cell})*+")
