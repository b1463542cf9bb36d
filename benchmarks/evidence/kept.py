"""Figures of finished cells in one file that is small enough to commit: JSON lines, one cell each, sorted by key.

A page is made anew from it alone (other formulas for intervals, say), and a run goes on from it on another machine. Which
test rows were answered right is a string of bits in hex, and other figures by test row are a list; the ids of the rows stand
once, in a line of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nfilter.api.errors import StoreError
from nfilter.store.files import digest, publishing

DIGITS: Final = 7
_ROWS, _HEX, _IDS, _LIST = "rows", "hex", "ids", "list"
BY_ROW: Final = ("losses", "likely")
"""Figures of a cell that are numbers by test row."""


def rounded(value: Any) -> Any:
    """A JSON value with its fractions rounded to seven significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def bits(flags: list[bool]) -> str:
    """Flags as hex: the first is the highest bit; zeros fill the last digit."""
    size = -len(flags) % 4
    number = int("".join(map("01".__getitem__, flags)) + "0" * size or "0", 2)
    return f"{number:0{(len(flags) + size) // 4}x}" if flags else ""


def flags(text: str, n: int) -> list[bool]:
    """The inverse of ``bits`` for ``n`` flags.

    Raises:
        ValueError: when ``text`` is not the hex of as many.
    """
    if len(text) != (n + 3) // 4:
        raise ValueError(f"{len(text)} hex digits for {n} rows, where {(n + 3) // 4} are needed")
    return [bit == "1" for bit in f"{int(text or '0', 16):0{4 * len(text)}b}"[:n]]


def save(file: Path, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the figures of cells by key, whole or not at all. The stages of a cell are left out: its plan has them."""
    rows: dict[str, list[str]] = {}
    lines = []
    for key, value in sorted(cells.items()):
        packed = rounded(value)
        if isinstance(packed.get("cell"), dict):
            packed["cell"].pop("samples", None)
        right = value.get("right")
        if right:
            packed["right"] = {_ROWS: _named(right, rows), _HEX: bits([bool(each) for each in right.values()])}  # fmt: skip
        for part in BY_ROW:
            if value.get(part):
                packed[part] = {_ROWS: _named(value[part], rows), _LIST: list(packed[part].values())}  # fmt: skip
        lines.append({"key": key, **packed})
    with publishing(file) as out:
        for name, ids in sorted(rows.items()):
            out.write(_line({_ROWS: name, _IDS: ids}))
        for line in lines:
            out.write(_line(line))


def _named(by_row: Mapping[str, Any], rows: dict[str, list[str]]) -> str:
    """The name of the rows' ids, which ``rows`` gets."""
    name = digest(list(by_row))[:12]
    rows[name] = list(by_row)
    return name


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n"


def load(file: Path) -> dict[str, dict[str, Any]]:
    """The figures of a file that ``save`` wrote, by key; nothing where there is none.

    Raises:
        StoreError: when a line is not one that ``save`` writes; it names file and line.
    """
    if not file.is_file():
        return {}
    rows: dict[str, list[str]] = {}
    cells: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            value = json.loads(text)
            if _IDS in value:
                rows[value[_ROWS]] = value[_IDS]
                continue
            right = value.get("right")
            if right:
                ids = rows[right[_ROWS]]
                value["right"] = dict(zip(ids, flags(right[_HEX], len(ids)), strict=True))
            for part in BY_ROW:
                if value.get(part):
                    value[part] = dict(zip(rows[value[part][_ROWS]], value[part][_LIST], strict=True))  # fmt: skip
            cells[value.pop("key")] = value
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{file}:{number}: not the figures of a cell ({type(error).__name__}: {error}); put the file back as it was "
                "committed, or remove it and make its cells anew"
            ) from error
    return cells
