"""Label sets: the classes of a column, and conversion of cells to classes and back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter import is_number
from nfilter_io.cells import RowError, as_text, quoted

MAX_CLASSES: Final = 1000
"""Maximum number of distinct values of a label set."""

_MAX_LENGTH: Final = 100  # characters of a class's name
_INTEGER: Final = re.compile(r"-?\d{1,9}")
_WHOLE: Final = re.compile(
    r"(-?\d{1,9})(?:\.0)?"
)  # data frames write indices as 1.0 where a cell is missing
_NO_CONTENT: Final = frozenset({"id", "idx", "index", "", "unnamed: 0", "uid", "guid", "split"})
_LEAST_ROWS: Final = 20
_WORDS: Final = 3  # of a text, on average
_DECIMAL: Final = re.compile(r"-?\d*\.\d+")
MAX_DECIMALS: Final = 10
"""Maximum number of distinct decimal numbers among classes: more are scores."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names. ``named``: the names come from the config or the schema, so a number in a cell is an index."""

    names: tuple[str, ...] = ()
    named: bool = False
    base: int = 0

    def __str__(self) -> str:
        text = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        if self.named or not all(_WHOLE.fullmatch(name) for name in self.names):
            return text
        return f"{text} (numbers only: labels: [NAME, ...] names them)"


def class_text(value: Any, name: str) -> str:
    """Return the class name in a cell; raise RowError."""
    if _is_missing(value):
        raise RowError(f"the field {quoted(name)} is missing")
    text = str(value).lower() if isinstance(value, bool) else as_text(value, name).strip()
    if not text or len(text) > _MAX_LENGTH or "\n" in text:
        raise RowError(
            f"the field {quoted(name)} is {quoted(value)}, which is not a valid class name"
        )
    return text


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def distinct_classes(cells: Iterable[Any], name: str) -> tuple[str, ...] | None:
    """Return the sorted distinct classes in a column's cells; None if there are more than ``MAX_CLASSES``."""
    classes: set[str] = set()
    for cell in cells:
        try:
            classes.add(class_text(cell, name))
        except RowError:
            continue
        if len(classes) > MAX_CLASSES:
            return None
    if all(_INTEGER.fullmatch(text) for text in classes):
        return tuple(sorted(classes, key=int))
    return tuple(sorted(classes))


def looks_like_classes(cells: Sequence[Any], name: str) -> bool:
    """Return whether the cells contain few distinct short values, and no scores."""
    values = [cell for cell in cells if not _is_missing(cell)]
    classes = set()
    for cell in values:
        try:
            classes.add(class_text(cell, name))
        except RowError:
            return False
    return bool(classes) and len(classes) <= 0.8 * len(values) + 1 and not are_scores(classes)


def not_classes(cells: Sequence[Any], name: str) -> str | None:
    """Return a sentence on why a column is not taken for labels; None where it may be."""
    if not cells or looks_like_classes(cells, name):
        return None
    texts = {str(cell) for cell in cells}
    if are_scores(texts):
        return (
            f"The column {quoted(name)} has decimal numbers: scores are no classes; write a column with a class for each row, "
            "such as high where the score is above a threshold."
        )
    return (
        f"The column {quoted(name)} has {len(texts)} different values in {len(cells)} rows, too many to take them for classes "
        "unasked: `shape: label` reads them as such."
    )


def text_and_classes(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, str | tuple[str, ...]] | None:
    """Return the columns of a label set whose two columns have other names: one with texts, one with few repeated values."""
    columns = [name for name in names if name.strip().lower() not in _NO_CONTENT]
    if len(columns) != 2 or len(rows) < _LEAST_ROWS:
        return None
    for text, label in (columns, columns[::-1]):
        texts = [row.get(text) for row in rows]
        labels = {str(row.get(label)) for row in rows}
        if (
            looks_like_classes([row.get(label) for row in rows], label)
            and 2 <= len(labels) <= len(rows) / 5
            and all(isinstance(each, str) for each in texts)
            and len(set(texts)) >= len(rows) / 2
            and sum(len(str(each).split()) for each in texts) >= _WORDS * len(rows)
        ):
            return {"text": text, "label": label}
    return None


def are_scores(classes: Iterable[str]) -> bool:
    """Return whether texts are measurements on a scale, such as 0.83, and no classes."""
    decimals = [text for text in set(classes) if _DECIMAL.fullmatch(text)]
    return sum(not _WHOLE.fullmatch(text) for text in decimals) > MAX_DECIMALS


def read_class(value: Any, classes: Classes, name: str) -> tuple[str, Mapping[str, Any] | None]:
    """Return the class that a cell names, and the cell's form (JSON; None for the plain name); raise RowError."""
    text = class_text(value, name)
    if text in classes.names:
        plain = isinstance(value, str) and value == text
        return text, None if plain else {"as": "name", "cell": value}
    index = _as_index(value)
    if classes.named and index is not None and 0 <= index - classes.base < len(classes.names):
        decimal = isinstance(value, str) and value.strip().endswith(".0")
        kind = "decimal" if decimal else type(value).__name__
        form = {"as": "index", "base": classes.base, "type": kind}
        return classes.names[index - classes.base], form
    raise RowError(
        f"the field {quoted(name)} is {quoted(value)}, which is not one of the classes: {classes}"
    )


def write_class(name: str, classes: Classes, form: Mapping[str, Any] | None) -> Any:
    """Return a class in the original cell's form; return other text unchanged."""
    if form is None or name not in classes.names:
        return name
    if form["as"] == "index":
        index = classes.names.index(name) + form["base"]
        if form["type"] == "decimal":
            return f"{index}.0"
        return {"int": int, "float": float}.get(form["type"], str)(index)
    cell = form["cell"]
    if class_text(cell, "") == name:
        return cell
    if isinstance(cell, bool):
        return {"true": True, "false": False}.get(name, name)
    return int(name) if is_number(cell) and _INTEGER.fullmatch(name) else name


def _as_index(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if is_number(value):
        return int(value)
    match = _WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
    return None if match is None else int(match.group(1))
