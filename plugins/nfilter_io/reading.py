"""Records to rows: the layout is settled on the first of them, the truth taken off, every row given an id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from nfilter import JSON, Row, Sample, SeenTexts, SourceError, Unreadable, hash_of
from nfilter_io import shapes
from nfilter_io.cells import Record, RowError, as_text, clean, raw_text, shown
from nfilter_io.classes import MOST, Classes, classes_in
from nfilter_io.config import Settings
from nfilter_io.layout import PEEK, Layout, guess

Records = Callable[[], Iterator[Record | Unreadable]]
Names = Callable[[str], Sequence[str] | None]
MAX_ID: Final = 256
_PEEK_SIZE: Final = 64 * 1024 * 1024  # characters held before the layout is settled


class Rows:
    """The rows of one file or folder, whatever its container.

    ``records`` opens the container anew each time; ``names`` gives the class names that its schema has for a column.
    """

    def __init__(
        self,
        config: Settings,
        records: Records,
        *,
        nan_is_null: bool = False,
        names: Names = lambda _: None,
    ) -> None:
        self._names = names
        self._config = config
        self._records = records
        self._nan_is_null = nan_is_null
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """The layout, from the first readable records. Raises SourceError."""
        if self._layout is None:
            stream = self._records()
            fault: Unreadable | None = None
            first: Record | None = None
            for record in stream:
                if isinstance(record, Record):
                    first = record
                    break
                fault = fault or record
            if first is None:
                raise SourceError(f"{self._config.path}: {_nothing(fault)}")
            head, whole = self._peek(first, stream)
            self._settle(head, whole=whole)
        assert self._layout is not None
        return self._layout

    def read(self) -> Iterator[Row | Unreadable]:
        """All rows in order. Raises SourceError where no layout fits or the container is broken."""
        known = _Known()
        stream = self._records()
        for record in stream:
            if isinstance(record, Unreadable):
                yield record
                continue
            head, whole = self._peek(record, stream)
            if self._layout is None:
                self._settle(head, whole=whole)
            yield from (self._row(item, known) for item in chain(head, stream))

    def restore(self, sample: Sample) -> dict[str, JSON]:
        """The sample in the columns that it came in, its id, and its weight where that is not 1."""
        layout = self.layout
        row = shapes.with_weight(shapes.restore(sample, layout), sample.weight, layout)
        column = layout.id or "id"
        if row.get(column) in (None, ""):
            row = {column: sample.id} | {k: v for k, v in row.items() if k != column}
        return row

    @staticmethod
    def _peek(
        first: Record, stream: Iterator[Record | Unreadable]
    ) -> tuple[list[Record | Unreadable], bool]:
        """The first records, and whether there are no others."""
        head: list[Record | Unreadable] = [first]
        size = first.size
        while len(head) < PEEK and size < _PEEK_SIZE:
            item = next(stream, None)
            if item is None:
                return head, True
            head.append(item)
            size += item.size if isinstance(item, Record) else 0
        return head, False

    def _settle(self, head: list[Record | Unreadable], *, whole: bool) -> None:
        rows = [item.value for item in head if isinstance(item, Record)]
        layout = guess(rows, self._config, whole=whole)
        if layout.shape == "label":
            layout = replace(
                layout, classes=self._classes(layout.column("label"), head, whole=whole)
            )
        self._layout = layout

    def _classes(self, column: str, head: list[Record | Unreadable], *, whole: bool) -> Classes:
        """The classes that the config or the schema names, else all that stand in the column, whatever its length."""
        base = self._config.index_base or 0
        named = self._config.labels or self._names(column)
        if named is not None:
            return Classes(tuple(named), named=True, base=base)
        records = head if whole else self._records()
        cells = (item.value.get(column) for item in records if isinstance(item, Record))
        found = classes_in(cells, column)
        if found is None:
            raise SourceError(
                f"{self._config.path}: the column {shown(column)} has more than {MOST:,} different values, which is no label "
                "set; type `shape: prompt` and `columns: {prompt: TEXT COLUMN, response: LABEL COLUMN}`"
            )
        return Classes(found, base=base)

    def _row(self, record: Record | Unreadable, known: _Known) -> Row | Unreadable:
        if isinstance(record, Unreadable):
            return record
        try:
            return self._sample(record, known)
        except RowError as error:
            return Unreadable(record.line, str(error), raw_text(record))

    def _sample(self, record: Record, known: _Known) -> Row:
        layout = self.layout
        # the truth goes first: neither what is checked, nor the id, nor the sample may depend on it
        row = {name: value for name, value in record.value.items() if name != layout.truth}
        row = _cleaned(row, nan_is_null=self._nan_is_null)
        parsed = shapes.parse(row, layout)
        weight = shapes.row_weight(row, layout)
        name = known.id_of(row, layout)
        truth = None
        if layout.truth is not None:
            truth = self._truth(record.value.get(layout.truth), row, layout)
        meta = MappingProxyType(dict(parsed.meta))
        sample = Sample(name, parsed.messages, meta=meta, tools=parsed.tools, weight=weight)
        return Row(sample, truth, not_carried=parsed.lost)

    def _truth(self, value: Any, row: Mapping[str, Any], layout: Layout) -> str | None:
        try:
            return shapes.truth_text(clean(value, nan_is_null=self._nan_is_null), row, layout)
        except RowError:
            return None


def _nothing(fault: Unreadable | None) -> str:
    """Why a file has no row, and what to do about it."""
    if fault is None:
        return "it holds no rows; write some to it, or name another file"
    listed = fault.raw.lstrip().startswith("[") and "use: json" not in fault.error
    hint = "; a file that is one JSON list is read with use: json" if listed else ""
    return f"no row can be read; line {fault.line}: {fault.error}{hint}"


def _cleaned(row: Mapping[str, Any], *, nan_is_null: bool) -> dict[str, Any]:
    done: dict[str, Any] = {}
    for name, value in row.items():
        try:
            done |= clean({name: value}, nan_is_null=nan_is_null)
        except RowError as error:
            raise RowError(f"the field {shown(name)} {error}") from None
    return done


class _Known:
    """The ids given so far, and the rows without one, as numbers: what memory grows with."""

    def __init__(self) -> None:
        self._ids = SeenTexts()
        self._rows = SeenTexts()
        self._again: dict[int, int] = {}

    def id_of(self, row: Mapping[str, Any], layout: Layout) -> str:
        """The source's id of the row, else one of its content. Raises RowError for an id given before."""
        given = row.get(layout.id) if layout.id is not None else None
        if layout.id is not None and given not in (None, ""):
            return self._given(as_text(given, layout.id), layout.id)
        return self._made(row)

    def _given(self, name: str, column: str) -> str:
        if not name.strip() or len(name) > MAX_ID:
            raise RowError(f"the field {shown(column)} is no id: it has 1 to {MAX_ID} characters")
        if not self._ids.first(name):
            raise RowError(f"the id {shown(name)} is that of an earlier row")
        return name

    def _made(self, row: Mapping[str, Any]) -> str:
        text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        occurrence = 0
        if not self._rows.first(text):
            key = hash_of(text)
            occurrence = self._again[key] = self._again.get(key, 0) + 1
        content = f"{text}\n{occurrence}".encode()
        name = hashlib.sha256(content).hexdigest()[:20]
        if not self._ids.first(name):
            raise RowError(f"the id {shown(name)}, made from the row, is that of an earlier row")
        return name


def at(base_dir: Path, path: str) -> Path:
    """The place that a recipe in ``base_dir`` means by ``path``."""
    return base_dir / path
