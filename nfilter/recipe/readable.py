"""Count the readable rows of a source, and the others by reason, with their first line numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfilter.api.data import RemarksOnData
from nfilter.api.types import Row, Unreadable

SAMPLE = 200
"""Rows that ``init`` and ``check`` read."""

_LINES = 3  # line numbers and reasons in a message
_VALUE = re.compile(r"""(?<!field )(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+)""")


@dataclass(slots=True)
class Reason:
    """A reason that rows cannot be read: the error of the first row, the number of rows, and their first line numbers."""

    text: str
    count: int = 0
    lines: list[int] = field(default_factory=list)

    def message(self) -> str:
        """Return the reason with its count and lines."""
        more = ", ..." if self.count > len(self.lines) else ""
        noun = "line" if self.count == 1 else "lines"
        return (
            f"{self.count:,} because {self.text} ({noun} {', '.join(map(str, self.lines))}{more})"
        )


class Readable:
    """Counts readable and unreadable rows."""

    def __init__(self, rows: Iterable[Row | Unreadable] = ()) -> None:
        self.readable = 0
        self.unreadable = 0
        self._reasons: dict[str, Reason] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row | Unreadable) -> None:
        """Count one row."""
        if isinstance(row, Row):
            self.readable += 1
            return
        self.unreadable += 1
        # Reasons that differ only in values and numbers are counted together.
        reason = self._reasons.setdefault(_VALUE.sub("?", row.error), Reason(row.error))
        reason.count += 1
        if len(reason.lines) < _LINES:
            reason.lines.append(row.line)

    def reasons(self) -> list[Reason]:
        """Return the reasons, the most frequent first."""
        return sorted(self._reasons.values(), key=lambda reason: -reason.count)

    def why(self) -> str:
        """Return the most frequent reasons as text, and the number of rows with other ones."""
        found = self.reasons()
        rest = sum(reason.count for reason in found[_LINES:])
        texts = [reason.message() for reason in found[:_LINES]]
        return "; ".join([*texts, f"{rest:,} for other reasons"] if rest else texts)

    def message(self, *, first: bool) -> str:
        """Return the number of readable rows, and why others are not. ``first``: the source has more rows than these."""
        total = self.readable + self.unreadable
        if total == 1:
            if not self.unreadable:
                return "its one row can be read"
            (reason,) = self.reasons()
            return f"its one row cannot be read: {reason.text} (line {reason.lines[0]})"
        rows = f"of the first {total:,} rows" if first else f"of {total:,} rows"
        if not self.unreadable:
            return f"all {rows} can be read"
        if not self.readable:
            return f"none {rows} can be read: {self.why()}"
        return f"{self.readable:,} {rows} can be read, {self.unreadable:,} cannot: {self.why()}"

    def warnings(self, *, first: bool) -> list[str]:
        """Return one sentence if rows cannot be read."""
        return [self.message(first=first)] if self.unreadable else []


def remarks_on(source: type[Any], config: Any, base_dir: Path) -> list[str]:
    """Return what a source says about columns that it does not read; raise SourceError."""
    return list(source.remarks(config, base_dir)) if issubclass(source, RemarksOnData) else []


def sampled(rows: Iterable[Row | Unreadable]) -> tuple[list[Row | Unreadable], bool]:
    """Return the first ``SAMPLE`` rows, and whether there are more."""
    stream: Iterator[Row | Unreadable] = iter(rows)
    found = list(itertools.islice(stream, SAMPLE))
    return found, next(stream, None) is not None
