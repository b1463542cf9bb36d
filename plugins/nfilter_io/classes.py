"""Label sets: the classes of a column, and cells that name one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter_io.cells import RowError, as_text, is_number, shown

MOST: Final = 1000
"""Different values beyond which a column is no label set."""

_LONGEST: Final = 100  # characters of a class's name
_WHOLE: Final = re.compile(r"-?\d{1,9}")


@dataclass(frozen=True, slots=True)
class Classes:
    """The names of the classes. ``named``: a person or the data's own schema gave them, so that a number is an index."""

    names: tuple[str, ...] = ()
    named: bool = False
    base: int = 0

    def __str__(self) -> str:
        some = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        if self.named or not all(_WHOLE.fullmatch(name) for name in self.names):
            return some
        return f"{some} (numbers alone: labels: [NAME, ...] gives them names)"


def class_text(value: Any, name: str) -> str:
    """The text of a cell with a class in it. Raises RowError."""
    if value is None or value == "":
        raise RowError(f"the field {shown(name)} is missing")
    text = str(value).lower() if isinstance(value, bool) else as_text(value, name).strip()
    if not text or len(text) > _LONGEST or "\n" in text:
        raise RowError(f"the field {shown(name)} is {shown(value)}, which is no name of a class")
    return text


def classes_in(cells: Iterable[Any], name: str) -> tuple[str, ...] | None:
    """The different classes in a column's cells, in order; None where there are more than ``MOST``."""
    found: set[str] = set()
    for cell in cells:
        try:
            found.add(class_text(cell, name))
        except RowError:
            continue
        if len(found) > MOST:
            return None
    if all(_WHOLE.fullmatch(text) for text in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def looks_like_classes(cells: Sequence[Any], name: str) -> bool:
    """Whether few different short values come again and again."""
    given = [cell for cell in cells if cell is not None and cell != ""]
    found = set()
    for cell in given:
        try:
            found.add(class_text(cell, name))
        except RowError:
            return False
    return bool(found) and len(found) <= 0.8 * len(given) + 1


def read_class(value: Any, classes: Classes, name: str) -> tuple[str, Mapping[str, Any] | None]:
    """The class that a cell names, and the form of the cell (JSON; None for the name as text). Raises RowError."""
    text = class_text(value, name)
    if text in classes.names:
        plain = isinstance(value, str) and value == text
        return text, None if plain else {"as": "name", "cell": value}
    index = _index(value)
    if classes.named and index is not None and 0 <= index - classes.base < len(classes.names):
        form = {"as": "index", "base": classes.base, "type": type(value).__name__}
        return classes.names[index - classes.base], form
    raise RowError(
        f"the field {shown(name)} is {shown(value)}, which is none of the classes: {classes}"
    )


def write_class(name: str, classes: Classes, form: Mapping[str, Any] | None) -> Any:
    """A class in the form of the cell that it came from; what is no class stays as it is."""
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
    return int(name) if is_number(cell) and _WHOLE.fullmatch(name) else name


def _index(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if is_number(value):
        return int(value)
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if _WHOLE.fullmatch(text) else None
