"""Text files as records: JSON Lines, one JSON list, CSV. Bytes that do not decode stay visible as surrogates."""

from __future__ import annotations

import codecs
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from nfilter import SourceError, Unreadable
from nfilter_io.cells import EXCERPT, Record, RowError, excerpt, kind_of, shown
from nfilter_io.config import JsonConfig, JsonLinesConfig

_BOM: Final = codecs.BOM_UTF8
_CHUNK: Final = 1 << 20
_FOREIGN: Final = (
    (b"PAR1", "is a Parquet file; type `use: parquet`"),
    (b"\x1f\x8b", "is compressed; unpack it first (gunzip)"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (codecs.BOM_UTF16_LE, "is UTF-16; convert it to UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16; convert it to UTF-8"),
)


def encoding_problem(encoding: str) -> str | None:
    """Why a file in this encoding cannot be read line by line, or None."""
    try:
        newline = "\n".encode(encoding)
    except (LookupError, ValueError, TypeError):
        return f"the encoding {shown(encoding)} is not known; type `encoding: utf-8`"
    if newline != b"\n":
        return f"the encoding {shown(encoding)} is not read here; convert the file to UTF-8"
    return None


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[IO[bytes]]:
    """The file behind its byte order mark. Raises SourceError where it cannot be opened or is no text."""
    problem = encoding_problem(encoding)
    if problem is not None:
        raise SourceError(f"{path}: {problem}")
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{path}: cannot be opened: {reason}; check `path`") from error
    with file:
        try:
            start = file.read(4)
            for magic, what in _FOREIGN:
                if start.startswith(magic):
                    raise SourceError(f"{path}: {what}")
            file.seek(len(_BOM) if start.startswith(_BOM) else 0)
            yield file
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def bounded_line(file: IO[bytes], limit: int) -> tuple[bytes, bool]:
    """The next line and whether it is whole; of a line over ``limit`` bytes only the start is ever held."""
    line = file.readline(limit + 1)
    if len(line) <= limit or line.endswith(b"\n"):
        return line, True
    start = line[: 4 * EXCERPT]
    del line
    while (more := file.readline(_CHUNK)) and not more.endswith(b"\n"):
        pass
    return start, False


def decoded(data: bytes, encoding: str) -> str:
    """The text of ``data``; bytes that are none become lone surrogates, so that only their row is lost."""
    try:
        return data.decode(encoding, "surrogateescape")
    except (UnicodeError, NotImplementedError):
        return data.decode("ascii", "surrogateescape")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise RowError("an object has the same key twice")
    return whole


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs)


def _what(error: json.JSONDecodeError) -> str:
    """What json says, without the word or colon that its own place would follow."""
    return error.msg.removesuffix(" at").rstrip(": ")


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {_what(error)} at character {error.pos + 1}"
    return str(error) if isinstance(error, RowError) else f"is not JSON: {error}"


def json_lines(path: Path, config: JsonLinesConfig) -> Iterator[Record | Unreadable]:
    """The objects of a JSON Lines file, at the memory of one line. Blank lines are none."""
    with opened(path, config.encoding) as file:
        number = 0
        while True:
            data, whole = bounded_line(file, config.max_line_bytes)
            if not data:
                return
            number += 1
            text = decoded(data, config.encoding)
            if not whole:
                why = f"the line is longer than {config.max_line_bytes} bytes (max_line_bytes)"
                yield Unreadable(number, why, excerpt(text))
                continue
            if not text.strip():
                continue
            raw = text[: 2 * EXCERPT]
            try:
                value = json.loads(text, object_pairs_hook=_pairs)
            except (ValueError, RecursionError, RowError) as error:
                yield Unreadable(number, f"the line {_problem(error)}", excerpt(raw))
                continue
            if isinstance(value, dict):
                yield Record(number, value, raw, len(text))
            else:
                hint = "; type `use: json` for one list of rows" if isinstance(value, list) else ""
                why = f"the line is {kind_of(value)}, not an object{hint}"
                yield Unreadable(number, why, excerpt(raw))


_BLANK: Final = re.compile(r"[ \t\r\n]*")
_COMMA: Final = re.compile(r",[ \t\r\n]*(?=\{)")
_TRIES: Final = 10_000
_MARK: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)


def json_list(path: Path, config: JsonConfig) -> Iterator[Record | Unreadable]:
    """The objects of a file that is one JSON list; an element that cannot be read is left out alone."""
    with opened(path, config.encoding) as file:
        data = file.read(config.max_bytes + 1)
    if len(data) > config.max_bytes:
        raise SourceError(
            f"{path}: is larger than {config.max_bytes} bytes (max_bytes); write it as JSON Lines, one"
            " object a line, which is read at constant memory, and type `use: jsonl`"
        )
    text = decoded(data, config.encoding)
    del data
    at = _blank(text, 0)
    if not text.startswith("[", at):
        raise SourceError(f"{path}: {_no_list(path, text, at)}")
    yield from _elements(text, at + 1)


def _no_list(path: Path, text: str, at: int) -> str:
    """What a file holds that does not begin with a bracket, and what to do with it."""
    if at == len(text):
        return (
            "is empty: it holds no rows; write a JSON list of objects to it, or name another file"
        )
    if not text.startswith("{", at):
        return "is not a JSON list of objects"
    try:
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError, RowError):
        value = {}
    inside = [
        key
        for key, rows in value.items()
        if isinstance(rows, list) and rows and isinstance(rows[0], dict)
    ]
    if not inside:
        return "is not a JSON list of objects; type `use: jsonl` for one object a line"
    file, key = (json.dumps(text) for text in (path.name, inside[0]))
    code = (
        f'import json; rows = json.load(open({file}, encoding="utf-8"))[{key}]; '
        'json.dump(rows, open("rows.json", "w"))'
    )
    others = f" (or of {', '.join(map(repr, inside[1:4]))})" if len(inside) > 1 else ""
    return (
        f"is one JSON object, not a list; to take the rows of its key {inside[0]!r}{others} out, type "
        f"{shlex.join(['python', '-c', code])} in its folder and name rows.json"
    )


def _blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _elements(text: str, at: int) -> Iterator[Record | Unreadable]:
    line, counted = 1, 0
    like: frozenset[str] = frozenset()
    at = _blank(text, at)
    closed = text.startswith("]", at)
    if closed:
        at += 1
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        start = at
        value, error, at = _element(text, start, like)
        raw = text[start : min(at, start + 2 * EXCERPT)]
        if error is not None:
            yield Unreadable(line, error, excerpt(raw))
        elif not isinstance(value, dict):
            yield Unreadable(line, f"the row is {kind_of(value)}, not an object", excerpt(raw))
        else:
            like = frozenset(value)
            yield Record(line, value, raw, at - start)
        if at >= len(text):
            line += text.count("\n", counted, at)
            yield Unreadable(line, "the list does not end: the file is cut short", "")
            return
        closed = text[at] == "]"
        at = _blank(text, at + 1)
    if _blank(text, at) < len(text):
        line += text.count("\n", counted, at)
        yield Unreadable(line, "there is text after the end of the list", excerpt(text[at:][:1000]))


def _element(text: str, start: int, like: frozenset[str]) -> tuple[Any, str | None, int]:
    """One element: its value, what is wrong with it, and where the comma or bracket after it stands.

    ``like`` are the keys of the last whole row.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError, RowError) as error:
        if isinstance(error, json.JSONDecodeError):
            what = f"the row is not JSON: {_what(error)} (line {error.lineno})"
        else:
            what = f"the row {_problem(error)}"
        return None, what, _resumed(text, start, _end_of_element(text, start), like)
    end = _blank(text, end)
    if end < len(text) and text[end] not in ",]":
        what = "the row is followed by neither a comma nor ]"
        return None, what, _resumed(text, end, _end_of_element(text, end), like)
    return value, None, end


def _end_of_element(text: str, at: int) -> int:
    """Where the element that holds ``at`` ends, by its brackets alone."""
    depth = 0
    for match in _MARK.finditer(text, at):
        mark = match.group()
        if mark in "[{":
            depth += 1
        elif depth == 0 and mark in ",]":
            return match.start()
        elif mark in "]}":
            depth = max(0, depth - 1)
    return len(text)


def _resumed(text: str, at: int, end: int, like: frozenset[str]) -> int:
    """The first comma before ``end`` that stands before a whole object with the keys ``like``, else ``end``.

    Where a quote is missing, brackets and quotes pair wrongly from there on, and the end found by them may be far
    past rows that are whole. Until a row was read (``like`` is empty) any object will do, past all brackets alone.
    """
    if not like and end < len(text):
        return end
    for count, match in enumerate(_COMMA.finditer(text, at, end)):
        if count == _TRIES:
            break
        try:
            value, after = _DECODER.raw_decode(text, match.end())
        except (ValueError, RecursionError, RowError):
            continue
        after = _blank(text, after)
        if (after == len(text) or text[after] in ",]") and (not like or value.keys() == like):
            return match.start()
    return end
