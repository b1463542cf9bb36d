"""Single values of a row: what may pass as JSON, what passes as text, and how bad input is shown."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 64
EXCERPT = 500


class RowError(Exception):
    """One row that cannot be read; the message becomes the quarantine's ``error``."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands for a cell that its container could not decode."""

    error: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its container gives it.

    ``raw`` is the start of its text, or None where the container has no text; ``size`` counts its characters.
    """

    line: int
    value: Any
    raw: str | None = None
    size: int = 0


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """``text`` cut to ``limit`` characters, with everything escaped that is not printable.

    Controls, line separators, direction marks and surrogates never reach a terminal or a page.
    """
    safe = text[:limit]
    if not safe.isprintable():
        safe = "".join(char if char.isprintable() else _escaped(char) for char in safe)
    if len(safe) > limit or len(text) > limit:
        safe = safe[: limit - 1] + "…"
    return safe


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that did not decode
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(name: object) -> str:
    """A column's name or a short value as it stands in an error message."""
    return excerpt(repr(name), 80)


def raw_text(record: Record) -> str:
    """An excerpt of the record for the quarantine."""
    if record.raw is not None:
        return excerpt(record.raw)
    try:
        return excerpt(json.dumps(record.value, ensure_ascii=False, default=_fallback))
    except (ValueError, TypeError, RecursionError):
        return ""


def _fallback(value: object) -> str:
    return "<cannot be read>" if isinstance(value, Broken) else excerpt(str(value), 80)


def clean(value: Any, *, nan_is_null: bool = False) -> Any:
    """``value`` as JSON that survives disk.

    Dates become ISO text, bytes base64, decimals text. With ``nan_is_null`` a NaN becomes None, as data frames
    mean it. Raises RowError for NaN and infinities, NUL characters, lone surrogates and too deep nesting.
    """
    return _clean(value, 0, nan_is_null)


def _clean(value: Any, depth: int, nan_is_null: bool) -> Any:
    if value is None or value is True or value is False or type(value) is int:
        return value
    if type(value) is str:
        return _clean_text(value)
    if depth >= MAX_DEPTH:
        raise RowError(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float):
        return _clean_float(float(value), nan_is_null)
    if isinstance(value, Mapping):
        return {
            _clean_key(key): _clean(item, depth + 1, nan_is_null) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item, depth + 1, nan_is_null) for item in value]
    return _clean_other(value)


def _clean_key(key: object) -> str:
    if not isinstance(key, str):
        raise RowError(f"has a key that is not text: {shown(key)}")
    return _clean_text(key)


def _clean_text(text: str) -> str:
    if "\0" in text:
        raise RowError("holds a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            if 0xDC80 <= code <= 0xDCFF:
                raise RowError(
                    f"holds the byte 0x{code - 0xDC00:02x}, which is no text in the file's encoding, or a lone surrogate; "
                    "type `encoding: latin-1` (or cp1252) under source: where that is how the file was saved"
                ) from None
            raise RowError(f"holds a lone surrogate, U+{code:04X}") from None
    return text


def _clean_float(value: float, nan_is_null: bool) -> float | None:
    if math.isfinite(value):
        return value
    if math.isnan(value) and nan_is_null:
        return None
    raise RowError("holds NaN or an infinity, which are not JSON")


def _clean_other(value: Any) -> Any:
    if isinstance(value, Broken):
        raise RowError(value.error)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise RowError(f"holds a {type(value).__name__}, which JSON cannot hold")


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or a float; True and False are not numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(value: Any, name: str) -> str:
    """The text of a cell; a number is written as JSON writes it. Raises RowError for all else."""
    if isinstance(value, str):
        return value
    if is_number(value):
        return repr(value)
    if value is None:
        raise RowError(f"the field {shown(name)} is missing")
    raise RowError(f"the field {shown(name)} is {kind_of(value)}, not text")


def filled_text(value: Any, name: str) -> str:
    """The text of a cell that must say something."""
    text = as_text(value, name)
    if not text.strip():
        raise RowError(f"the field {shown(name)} is empty")
    return text


def kind_of(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, Mapping) else "a list"


def number_form(value: Any) -> str | None:
    """``int`` or ``float`` where a cell held a number, None where it held text."""
    if isinstance(value, str):
        return None
    return "int" if isinstance(value, int) else "float"


def in_form(text: str, form: object) -> str | int | float:
    """``text`` as the number that the cell held before, where it still is one."""
    try:
        if form == "int":
            number = int(text)
            return number if repr(number) == text else text
        if form == "float":
            real = float(text)
            return real if math.isfinite(real) else text
    except ValueError:
        return text
    return text


# How the common writers space a JSON text: a cell that held JSON is written back as it was.
_STYLES: tuple[tuple[bool, tuple[str, str]], ...] = (
    (False, (", ", ": ")),
    (True, (", ", ": ")),
    (False, (",", ":")),
    (True, (",", ":")),
)


def load_cell(text: str, name: str) -> Any:
    """The value of a cell that holds JSON as text. Raises RowError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RowError(
            f"the field {shown(name)} is text that is not JSON: {shown(text[:60])}"
        ) from None
    return clean(value)


def json_style(text: str, value: Any) -> int:
    """The number of the style in which ``text`` was written; 0 where none fits."""
    for number in range(len(_STYLES)):
        if dump_cell(value, number) == text:
            return number
    return 0


def dump_cell(value: Any, style: int) -> str:
    """``value`` as JSON text in a style of ``json_style``."""
    ascii_only, separators = _STYLES[style]
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators)
