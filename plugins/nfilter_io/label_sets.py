"""Label sets: the classes of a column, and conversion of cells to classes and back."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names. ``named``: the names come from the config or the schema, so a number in a cell is an index."""

    names: tuple[str, ...] = ()
    named: bool = False
    base: int = 0

    def __str__(self) -> str:
        text = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        if self.named or not all(_INTEGER.fullmatch(name) for name in self.names):
            return text
        return f"{text} (numbers only: labels: [NAME, ...] names them)"


def class_text(value: Any, name: str) -> str:
    """Return the class name in a cell; raise RowError."""
    if value is None or value == "":
        raise RowError(f"the field {quoted(name)} is missing")
    text = str(value).lower() if isinstance(value, bool) else as_text(value, name).strip()
    if not text or len(text) > _MAX_LENGTH or "\n" in text:
        raise RowError(
            f"the field {quoted(name)} is {quoted(value)}, which is not a valid class name"
        )
    return text


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
    """Return whether the cells contain few distinct short values."""
    values = [cell for cell in cells if cell is not None and cell != ""]
    classes = set()
    for cell in values:
        try:
            classes.add(class_text(cell, name))
        except RowError:
            return False
    return bool(classes) and len(classes) <= 0.8 * len(values) + 1


def read_class(value: Any, classes: Classes, name: str) -> tuple[str, Mapping[str, Any] | None]:
    """Return the class that a cell names, and the cell's form (JSON; None for the plain name); raise RowError."""
    text = class_text(value, name)
    if text in classes.names:
        plain = isinstance(value, str) and value == text
        return text, None if plain else {"as": "name", "cell": value}
    index = _as_index(value)
    if classes.named and index is not None and 0 <= index - classes.base < len(classes.names):
        form = {"as": "index", "base": classes.base, "type": type(value).__name__}
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
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if _INTEGER.fullmatch(text) else None
