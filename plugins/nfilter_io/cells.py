"""Cells of a row: conversion to JSON values and text, and safe excerpts of invalid input."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nfilter import is_number
from nfilter_io.python_cells import read_python

MAX_DEPTH = 64
EXCERPT = 500


class RowError(Exception):
    """A row that cannot be read; the message becomes the quarantine's ``error``."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Placeholder for a cell that its container could not decode."""

    error: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row as read from its container.

    ``raw`` is the start of its text, or None for a container without text; ``size`` is its number of characters.
    """

    line: int
    value: Any
    raw: str | None = None
    size: int = 0


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """Return ``text`` truncated to ``limit`` characters, with unprintable characters escaped.

    Control characters, line separators, direction marks and surrogates never reach a terminal or a page.
    """
    safe = text[:limit]
    if not safe.isprintable():
        safe = "".join(char if char.isprintable() else _escaped(char) for char in safe)
    if len(safe) > limit or len(text) > limit:
        safe = safe[: limit - 1] + "…"
    return safe


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that could not be decoded
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(name: object) -> str:
    """Return a column's name or a short value for an error message."""
    return excerpt(repr(name), 80)


def record_excerpt(record: Record) -> str:
    """Return an excerpt of the record for the quarantine."""
    if record.raw is not None:
        return excerpt(record.raw)
    try:
        return excerpt(json.dumps(record.value, ensure_ascii=False, default=_fallback))
    except (ValueError, TypeError, RecursionError):
        return ""


def _fallback(value: object) -> str:
    return "<cannot be read>" if isinstance(value, Undecodable) else excerpt(str(value), 80)


def clean(value: Any, *, nan_is_null: bool = False) -> Any:
    """Convert ``value`` to a valid JSON value.

    Dates become ISO text, bytes base64, decimals text. With ``nan_is_null`` a NaN becomes None: data frames write a missing value so.

    Raises:
        RowError: NaN, an infinity, a NUL character, a lone surrogate, or nesting deeper than ``MAX_DEPTH``.
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
        raise RowError(f"has a key that is not text: {quoted(key)}")
    return _clean_text(key)


def _clean_text(text: str) -> str:
    if "\0" in text:
        raise RowError("contains a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            if 0xDC80 <= code <= 0xDCFF:
                raise RowError(
                    f"contains the byte 0x{code - 0xDC00:02x}, which is invalid in the file's encoding, or a lone surrogate; "
                    "type `encoding: latin-1` (or cp1252) under source: if the file was saved with it"
                ) from None
            raise RowError(f"contains a lone surrogate, U+{code:04X}") from None
    return text


def _clean_float(value: float, nan_is_null: bool) -> float | None:
    if math.isfinite(value):
        return value
    if math.isnan(value) and nan_is_null:
        return None
    raise RowError("contains NaN or an infinity, which JSON cannot represent")


def _clean_other(value: Any) -> Any:
    if isinstance(value, Undecodable):
        raise RowError(value.error)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise RowError(f"contains a {type(value).__name__}, which JSON cannot represent")


def as_text(value: Any, name: str) -> str:
    """Return the text of a cell, or a number as JSON text; raise RowError for other types."""
    if isinstance(value, str):
        return value
    if is_number(value):
        return repr(value)
    if value is None:
        raise RowError(f"the field {quoted(name)} is missing")
    raise RowError(f"the field {quoted(name)} is {json_type(value)}, not text")


def nonempty_text(value: Any, name: str) -> str:
    """Return the text of a cell; raise RowError if it is empty."""
    text = as_text(value, name)
    if not text.strip():
        raise RowError(f"the field {quoted(name)} is empty")
    return text


def json_type(value: object) -> str:
    """Return the JSON name of a value's type with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, Mapping) else "a list"


def number_type(value: Any) -> str | None:
    """Return ``int`` or ``float`` for a number, None for text."""
    if isinstance(value, str):
        return None
    return "int" if isinstance(value, int) else "float"


def as_number_type(text: str, form: object) -> str | int | float:
    """Convert ``text`` to the cell's original number type; return the text if it is not such a number."""
    try:
        if form == "int":
            style = int(text)
            return style if repr(style) == text else text
        if form == "float":
            real = float(text)
            return real if math.isfinite(real) else text
    except ValueError:
        return text
    return text


# Styles of common writers, to write a cell in its original style: JSON (ASCII only, separators), and None as Python prints it.
_STYLES: tuple[tuple[bool, tuple[str, str]] | None, ...] = (
    (False, (", ", ": ")),
    (True, (", ", ": ")),
    (False, (",", ":")),
    (True, (",", ":")),
    None,
)


def load_cell(text: str, name: str) -> Any:
    """Parse a cell with a list or an object as JSON text, or as Python prints it; raise RowError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = read_python(text)
        except ValueError:
            raise RowError(
                f"the field {quoted(name)} is text that is not JSON: {quoted(text[:60])}"
            ) from None
    return clean(value)


def json_style(text: str, value: Any) -> int:
    """Return the index of the style of ``text``; 0 if none matches."""
    for style in range(len(_STYLES)):
        if dump_cell(value, style) == text:
            return style
    return 0


def dump_cell(value: Any, style: int) -> str:
    """Return ``value`` as text in the given style of ``json_style``."""
    form = _STYLES[style]
    if form is None:
        return repr(value)
    ascii_only, separators = form
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators)
