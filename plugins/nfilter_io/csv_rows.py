"""CSV files as records, with the memory of one record. A broken quote affects only its own line."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from nfilter import JSON, SourceError, Unreadable
from nfilter_io.cells import EXCERPT, Record, RowError, clean, excerpt, quoted
from nfilter_io.config import CsvConfig
from nfilter_io.text_files import decode, open_file, read_bounded_line

_OTHER_DELIMITERS: Final = ";\t|"


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    complete: bool


class _TooLongError(Exception):
    """A record exceeds the maximum size."""


class _LineFeed:
    """Iterator of physical lines for the csv module that can return the current record's lines again."""

    def __init__(self, file: IO[bytes], config: CsvConfig) -> None:
        self._file = file
        self._config = config
        self._replayed: deque[_Line] = deque()
        self._number = 0
        self.size = 0
        self.lines: list[_Line] = []

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        line = self._replayed.popleft() if self._replayed else self._read_line()
        self.lines.append(line)
        self.size += len(line.text)
        if not line.complete or self.size > self._config.max_line_bytes:
            raise _TooLongError
        return line.text

    def _read_line(self) -> _Line:
        data, complete = read_bounded_line(self._file, self._config.max_line_bytes)
        if not data:
            raise StopIteration
        self._number += 1
        return _Line(self._number, decode(data, self._config.encoding), complete)

    def start_record(self) -> None:
        """Start a new record."""
        self.lines = []
        self.size = 0

    def replay(self) -> None:
        """Return all lines of the record except the first again."""
        self._replayed.extendleft(reversed(self.lines[1:]))

    @property
    def raw(self) -> str:
        """Return the start of the record's text."""
        return "".join(line.text[: 2 * EXCERPT] for line in self.lines[:20])[: 2 * EXCERPT]


@contextmanager
def _field_limit(size: int) -> Iterator[None]:
    # The csv module's limit is global to the process: raise it for one call, then restore it.
    before = csv.field_size_limit(size)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def delimiter_of(path: Path, config: CsvConfig) -> str:
    """Return the configured delimiter, by default a tab for ``.tsv``, else a comma."""
    return config.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")


def needed_delimiter(path: Path, config: CsvConfig) -> dict[str, JSON]:
    """Return the delimiter that divides the header into columns, if the default one does not; empty otherwise."""
    default = delimiter_of(path, config)
    if config.delimiter is not None or _columns(path, config, default) > 1:
        return {}
    others = (each for each in _OTHER_DELIMITERS + "," if _columns(path, config, each) > 1)
    found = next(others, None)
    return {} if found is None else {"delimiter": found}


def _columns(path: Path, config: CsvConfig, delimiter: str) -> int:
    """The number of columns of the header; 0 if it cannot be read with this delimiter."""
    try:
        with open_file(path, config.encoding) as file:
            feed = _LineFeed(file, config)
            reader = csv.reader(feed, delimiter=delimiter, strict=True)
            wanted = config.model_copy(update={"delimiter": delimiter})
            return len(_read_header(path, feed, reader, wanted, delimiter))
    except (SourceError, OSError):
        return 0


def csv_rows(path: Path, config: CsvConfig) -> Iterator[Record | Unreadable]:
    """Yield the rows below the header; raise SourceError for a header that is missing or has duplicate names."""
    delimiter = delimiter_of(path, config)
    with open_file(path, config.encoding) as file:
        feed = _LineFeed(file, config)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        header = _read_header(path, feed, reader, config, delimiter)
        yield from _read_rows(feed, reader, header, config, delimiter)


def _read_header(
    path: Path, feed: _LineFeed, reader: Any, config: CsvConfig, delimiter: str
) -> list[str]:
    header: list[str] = []
    try:
        with _field_limit(config.max_line_bytes):
            while not header:
                feed.start_record()
                header = next(reader)
        names = [str(clean(name)) for name in header]
    except StopIteration:
        raise SourceError(
            f"{path}: is empty; a CSV file starts with a line of column names"
        ) from None
    except (csv.Error, _TooLongError, RowError) as error:
        reason = str(error) or f"is longer than {config.max_line_bytes} bytes"
        if feed.lines and "\r" in feed.lines[0].text.rstrip("\r\n"):
            reason = r"its lines end with a carriage return alone; convert them: tr '\r' '\n' < FILE > rows.csv"
        raise SourceError(f"{path}:1: the line of column names cannot be read: {reason}") from None
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise SourceError(f"{path}:1: two columns have the name {quoted(duplicate)}; rename one")
    other = next((char for char in _OTHER_DELIMITERS if char in names[0]), None)
    if len(names) == 1 and other is not None and other != delimiter:
        raise SourceError(
            f"{path}:1: has one column, {quoted(names[0])}; type `delimiter: {other!r}` if that separates the columns"
        )
    return names


def _read_rows(
    feed: _LineFeed, reader: Any, header: list[str], config: CsvConfig, delimiter: str
) -> Iterator[Record | Unreadable]:
    plain = _plain_record(delimiter)
    uncertain = False  # after a broken quote, until the next plain record
    while True:
        feed.start_record()
        try:
            with _field_limit(config.max_line_bytes):
                cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _TooLongError) as error:
            first = feed.lines[0]
            long = f"the record is longer than {config.max_line_bytes} bytes (max_line_bytes)"
            reason = f"the record is not CSV: {error}" if isinstance(error, csv.Error) else long
            yield Unreadable(first.number, reason, excerpt(first.text[: 2 * EXCERPT]))
            feed.replay()
            uncertain = True
            continue
        if not cells:
            continue
        number = feed.lines[0].number
        if len(cells) != len(header):
            reason = f"the record has {len(cells)} cells, the header {len(header)}"
            yield Unreadable(number, reason, excerpt(feed.raw))
            continue
        if uncertain:
            text = "".join(line.text for line in feed.lines).rstrip("\r\n")
            if plain.fullmatch(text) is None:
                reason = "the record may belong to one with a broken quote"
                yield Unreadable(number, reason, excerpt(feed.raw))
                continue
            uncertain = False
        yield Record(number, dict(zip(header, cells, strict=True)), feed.raw, feed.size)


def _plain_record(delimiter: str) -> re.Pattern[str]:
    """Return the pattern of a record by RFC 4180: quotes only around a cell, or doubled inside one."""
    d = re.escape(delimiter)
    cell = rf'(?:"(?:[^"]++|"")*+"|[^"\r\n{d}]*+)'
    return re.compile(rf"{cell}(?:{d}{cell})*+")
