"""Records to rows: determine the layout from the first records, remove the truth, and assign ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from nfilter import JSON, Row, Sample, SeenTexts, SourceError, Unreadable, hash_of
from nfilter_io import shapes
from nfilter_io.cells import Record, RowError, as_text, clean, quoted, record_excerpt
from nfilter_io.config import RowSettings
from nfilter_io.label_sets import MAX_CLASSES, Classes, distinct_classes
from nfilter_io.layout import PEEK, Layout, guess_layout
from nfilter_io.remarks import remarks

Records = Callable[[], Iterator[Record | Unreadable]]
SchemaClasses = Callable[[str], Sequence[str] | None]
MAX_ID: Final = 256
_PEEK_SIZE: Final = (
    64 * 1024 * 1024
)  # maximum number of characters buffered to determine the layout


class Rows:
    """Rows of one file or folder in any container.

    ``records`` reopens the container on each call; ``schema_classes`` returns the schema's class names of a column.
    """

    def __init__(
        self,
        config: RowSettings,
        records: Records,
        *,
        schema_classes: SchemaClasses = lambda _: None,
    ) -> None:
        self._schema_classes = schema_classes
        self._config = config
        self._records = records
        self._layout: Layout | None = None
        self._remarks: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return sentences on columns beside the answers, from the first records; raise SourceError."""
        return self._remarks if self.layout else ()

    @property
    def layout(self) -> Layout:
        """Return the layout, determined from the first readable records; raise SourceError."""
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
                raise SourceError(f"{self._config.path}: {_no_rows(fault)}")
            head, whole = self._peek(first, stream)
            self._set_layout(head, whole=whole)
        assert self._layout is not None
        return self._layout

    def read(self) -> Iterator[Row | Unreadable]:
        """Yield all rows in order; raise SourceError if no layout fits or the container is invalid."""
        registry = _IdRegistry()
        stream = self._records()
        for record in stream:
            if isinstance(record, Unreadable):
                yield record
                continue
            head, whole = self._peek(record, stream)
            if self._layout is None:
                self._set_layout(head, whole=whole)
            yield from (self._read_record(item, registry) for item in chain(head, stream))

    def restore(self, sample: Sample) -> dict[str, JSON]:
        """Return the sample in its original columns, with its id, and its weight if that is not 1."""
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
        """Return the first records, and whether they are all records."""
        head: list[Record | Unreadable] = [first]
        size = first.size
        while len(head) < PEEK and size < _PEEK_SIZE:
            item = next(stream, None)
            if item is None:
                return head, True
            head.append(item)
            size += item.size if isinstance(item, Record) else 0
        return head, False

    def _set_layout(self, head: list[Record | Unreadable], *, whole: bool) -> None:
        rows = [item.value for item in head if isinstance(item, Record)]
        layout = guess_layout(rows, self._config, whole=whole)
        if layout.shape == "label":
            layout = replace(
                layout, classes=self._classes(layout.column("label"), head, whole=whole)
            )
        self._layout = layout
        self._remarks = tuple(remarks(rows, layout))

    def _classes(self, column: str, head: list[Record | Unreadable], *, whole: bool) -> Classes:
        """Return the classes of the config or the schema, else all distinct values of the column."""
        base = self._config.index_base or 0
        named = self._config.labels or self._schema_classes(column)
        if named is not None:
            return Classes(tuple(named), named=True, base=base)
        records = head if whole else self._records()
        cells = (item.value.get(column) for item in records if isinstance(item, Record))
        classes = distinct_classes(cells, column)
        if classes is None:
            raise SourceError(
                f"{self._config.path}: the column {quoted(column)} has more than {MAX_CLASSES:,} distinct values, too many for a "
                "label set; type `shape: prompt` and `columns: {prompt: TEXT COLUMN, response: LABEL COLUMN}`"
            )
        return Classes(classes, base=base)

    def _read_record(self, record: Record | Unreadable, registry: _IdRegistry) -> Row | Unreadable:
        if isinstance(record, Unreadable):
            return record
        try:
            return self._to_row(record, registry)
        except RowError as error:
            return Unreadable(record.line, str(error), record_excerpt(record))

    def _to_row(self, record: Record, registry: _IdRegistry) -> Row:
        layout = self.layout
        # The truth is removed first: neither checks, nor the id, nor the sample may depend on it.
        row = {name: value for name, value in record.value.items() if name != layout.truth}
        row = _clean_row(row)
        parsed = shapes.parse(row, layout)
        weight = shapes.row_weight(row, layout)
        name = registry.id_of(row, layout)
        truth = None
        if layout.truth is not None:
            truth = self._read_truth(record.value.get(layout.truth), row, layout)
        meta = MappingProxyType(dict(parsed.meta))
        sample = Sample(
            name,
            parsed.messages,
            meta=meta,
            tools=parsed.tools,
            weight=weight,
            rejected=parsed.rejected,
        )
        return Row(sample, truth, not_carried=parsed.not_carried)

    def _read_truth(self, value: Any, row: Mapping[str, Any], layout: Layout) -> str | None:
        try:
            return shapes.truth_text(clean(value, nan_is_null=True), row, layout)
        except RowError:
            return None


def remarks_on_rows(cls: Any, config: RowSettings, base_dir: object) -> Sequence[str]:
    """Return what a source with ``rows`` says about columns beside the answers; raise SourceError."""
    found: Sequence[str] = cls(config, base_dir).rows.remarks
    return found


def _no_rows(fault: Unreadable | None) -> str:
    """Return the error and remedy for a file without a readable row."""
    if fault is None:
        return "it has no rows; write some to it, or name another file"
    is_list = fault.raw.lstrip().startswith("[") and "use: json" not in fault.error
    hint = "; read a file with one JSON list with use: json" if is_list else ""
    return f"no row can be read; line {fault.line}: {fault.error}{hint}"


def _clean_row(row: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in row.items():
        try:
            out |= clean({name: value}, nan_is_null=True)
        except RowError as error:
            raise RowError(f"the field {quoted(name)} {error}") from None
    return out


class _IdRegistry:
    """Hashes of the ids used so far and of the rows without an id; the only state that grows with the rows."""

    def __init__(self) -> None:
        self._ids = SeenTexts()
        self._rows = SeenTexts()
        self._occurrences: dict[int, int] = {}

    def id_of(self, row: Mapping[str, Any], layout: Layout) -> str:
        """Return the row's id in the source, else a hash of its content; raise RowError for a duplicate id."""
        value = row.get(layout.id) if layout.id is not None else None
        if layout.id is not None and value not in (None, ""):
            return self._check_id(as_text(value, layout.id), layout.id)
        return self._content_id(row)

    def _check_id(self, name: str, column: str) -> str:
        if not name.strip() or len(name) > MAX_ID:
            raise RowError(
                f"the field {quoted(column)} is not a valid id: an id has 1 to {MAX_ID} characters"
            )
        if not self._ids.first(name):
            raise RowError(
                f"the id {quoted(name)} was used by an earlier row; if the column {quoted(column)} identifies no row, rename it, "
                "or type `id: COLUMN` for one that does"
            )
        return name

    def _content_id(self, row: Mapping[str, Any]) -> str:
        text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        occurrence = 0
        if not self._rows.first(text):
            key = hash_of(text)
            occurrence = self._occurrences[key] = self._occurrences.get(key, 0) + 1
        content = f"{text}\n{occurrence}".encode()
        name = hashlib.sha256(content).hexdigest()[:20]
        if not self._ids.first(name):
            raise RowError(f"the id {quoted(name)}, made from the row, was used by an earlier row")
        return name
