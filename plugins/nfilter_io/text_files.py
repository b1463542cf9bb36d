"""Text files as records: JSON Lines and JSON lists. Bytes that cannot be decoded become surrogates."""

from __future__ import annotations

import codecs
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from nfilter import SourceError, Unreadable, file_advice
from nfilter_io.cells import EXCERPT, Record, RowError, excerpt, json_type, quoted
from nfilter_io.config import JsonConfig, JsonLinesConfig
from nfilter_io.web_pages import PAGE_START, is_page

_BOM: Final = codecs.BOM_UTF8
_CHUNK: Final = 1 << 20
_OTHER_FORMATS: Final = (
    (b"PAR1", "is a Parquet file; type `use: parquet`"),
    (b"\x1f\x8b", "is compressed; unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed; unpack it first (unzstd)"),
    (b"\xfd7zXZ", "is compressed; unpack it first (unxz)"),
    *(
        (b"BZh%d1AY&SY" % level, "is compressed; unpack it first (bunzip2)")
        for level in range(1, 10)
    ),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (b"ARROW1", "is an Arrow file; write it as Parquet and type `use: parquet`"),
    (codecs.BOM_UTF16_LE, "is UTF-16; convert it to UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16; convert it to UTF-8"),
)


def encoding_problem(encoding: str) -> str | None:
    """Return why a file in this encoding cannot be read line by line, or None."""
    try:
        newline = "\n".encode(encoding)
    except (LookupError, ValueError, TypeError):
        return f"the encoding {quoted(encoding)} is unknown; type `encoding: utf-8`"
    if newline != b"\n":
        return f"the encoding {quoted(encoding)} is not supported; convert the file to UTF-8"
    return None


@contextmanager
def open_file(path: Path, encoding: str) -> Iterator[IO[bytes]]:
    """Open the file after its byte order mark; raise SourceError if it cannot be opened or is not text."""
    problem = encoding_problem(encoding)
    if problem is not None:
        raise SourceError(f"{path}: {problem}")
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        what = file_advice(path, error) if isinstance(error, PermissionError) else "check `path`"
        raise SourceError(f"{path}: cannot be opened: {reason}; {what}") from error
    with file:
        try:
            start = file.read(PAGE_START)
            for magic, what in _OTHER_FORMATS:
                if start.startswith(magic):
                    raise SourceError(f"{path}: {what}")
            if is_page(start):
                raise SourceError(
                    f"{path}: is a web page (HTML), as servers send one for a login; open its address in a browser, and save the file itself"
                )
            file.seek(len(_BOM) if start.startswith(_BOM) else 0)
            yield file
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read: {error.strerror or error}; {file_advice(path, error)}"
            ) from error


def read_bounded_line(file: IO[bytes], limit: int) -> tuple[bytes, bool]:
    """Return (line, complete); a line over ``limit`` bytes is skipped, and only its start is returned."""
    line = file.readline(limit + 1)
    if len(line) <= limit or line.endswith(b"\n"):
        return line, True
    start = line[: 4 * EXCERPT]
    del line
    while (more := file.readline(_CHUNK)) and not more.endswith(b"\n"):
        pass
    return start, False


def decode(data: bytes, encoding: str) -> str:
    """Decode ``data``; invalid bytes become lone surrogates, so only their row is lost."""
    try:
        return data.decode(encoding, "surrogateescape")
    except (UnicodeError, NotImplementedError):
        return data.decode("ascii", "surrogateescape")


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    complete = dict(pairs)
    if len(complete) != len(pairs):
        raise RowError("has an object with the same key twice")
    return complete


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)


def _json_message(error: json.JSONDecodeError) -> str:
    """Return json's message without the word or colon before its position."""
    return error.msg.removesuffix(" at").rstrip(": ")


def _error_text(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {_json_message(error)} at character {error.pos + 1}"
    return str(error) if isinstance(error, RowError) else f"is not JSON: {error}"


def json_lines(path: Path, config: JsonLinesConfig) -> Iterator[Record | Unreadable]:
    """Yield the objects of a JSON Lines file with the memory of one line; blank lines are skipped."""
    with open_file(path, config.encoding) as file:
        number = 0
        while True:
            data, complete = read_bounded_line(file, config.max_line_bytes)
            if not data:
                return
            number += 1
            text = decode(data, config.encoding)
            if not complete:
                reason = f"the line is longer than {config.max_line_bytes} bytes (max_line_bytes)"
                yield Unreadable(number, reason, excerpt(text))
                continue
            if not text.strip():
                continue
            raw = text[: 2 * EXCERPT]
            try:
                value = json.loads(text, object_pairs_hook=_reject_duplicate_keys)
            except (ValueError, RecursionError, RowError) as error:
                hint = _SPREAD if number == 1 and text.strip() in ("{", "[") else ""
                yield Unreadable(number, f"the line {_error_text(error)}{hint}", excerpt(raw))
                continue
            if isinstance(value, dict):
                yield Record(number, value, raw, len(text))
            else:
                hint = "; type `use: json` for one list of rows" if isinstance(value, list) else ""
                reason = f"the line is {json_type(value)}, not an object{hint}"
                yield Unreadable(number, reason, excerpt(raw))


_SPREAD: Final = (
    "; rows over several lines are no JSON Lines; type `use: json` for one list of rows, else put each on one line with: "
    "jq -c . FILE > rows.jsonl"
)
_BLANK: Final = re.compile(r"[ \t\r\n]*")
_COMMA: Final = re.compile(r",[ \t\r\n]*(?=\{)")
_MAX_TRIES: Final = 10_000
_STRING_OR_MARK: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)


def json_list(path: Path, config: JsonConfig) -> Iterator[Record | Unreadable]:
    """Yield the objects of a file with one JSON list; an invalid element affects no other."""
    with open_file(path, config.encoding) as file:
        data = file.read(config.max_bytes + 1)
    if len(data) > config.max_bytes:
        raise SourceError(
            f"{path}: is larger than {config.max_bytes} bytes (max_bytes); write it as JSON Lines, one"
            " object per line, which is read at constant memory, and type `use: jsonl`"
        )
    text = decode(data, config.encoding)
    del data
    at = _skip_blank(text, 0)
    if not text.startswith("[", at):
        raise SourceError(f"{path}: {_not_a_list(path, text, at)}")
    yield from _parse_elements(text, at + 1)


def _not_a_list(path: Path, text: str, at: int) -> str:
    """Return the error and remedy for a file that does not start with a bracket."""
    if at == len(text):
        return "is empty: it has no rows; write a JSON list of objects to it, or name another file"
    if not text.startswith("{", at):
        return "is not a JSON list of objects"
    try:
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError, RowError):
        value = {}
    list_keys = [
        key
        for key, rows in value.items()
        if isinstance(rows, list) and rows and isinstance(rows[0], dict)
    ]
    if not list_keys and value and all(isinstance(cells, dict) for cells in value.values()):
        code = f'import pandas; pandas.read_json({json.dumps(path.name)}).to_json("rows.jsonl", orient="records", lines=True)'
        return (
            "is one JSON object with a column under each key, not a list of rows; to write one row per line, type "
            f"{shlex.join(['python', '-c', code])} in its folder and name rows.jsonl"
        )
    if not list_keys:
        return "is not a JSON list of objects; type `use: jsonl` for one object per line"
    file, key = (json.dumps(text) for text in (path.name, list_keys[0]))
    code = (
        f'import json; rows = json.load(open({file}, encoding="utf-8"))[{key}]; '
        'json.dump(rows, open("rows.json", "w"))'
    )
    others = f" (or of {', '.join(map(repr, list_keys[1:4]))})" if len(list_keys) > 1 else ""
    return (
        f"is one JSON object, not a list; to extract the rows of its key {list_keys[0]!r}{others}, type "
        f"{shlex.join(['python', '-c', code])} in its folder and name rows.json"
    )


def _skip_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _parse_elements(text: str, at: int) -> Iterator[Record | Unreadable]:
    line, counted = 1, 0
    keys: frozenset[str] = frozenset()
    at = _skip_blank(text, at)
    closed = text.startswith("]", at)
    if closed:
        at += 1
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        start = at
        value, error, at = _parse_element(text, start, keys)
        raw = text[start : min(at, start + 2 * EXCERPT)]
        if error is not None:
            yield Unreadable(line, error, excerpt(raw))
        elif not isinstance(value, dict):
            yield Unreadable(line, f"the row is {json_type(value)}, not an object", excerpt(raw))
        else:
            keys = frozenset(value)
            yield Record(line, value, raw, at - start)
        if at >= len(text):
            line += text.count("\n", counted, at)
            yield Unreadable(line, "the list does not end: the file is cut short", "")
            return
        closed = text[at] == "]"
        at = _skip_blank(text, at + 1)
    if _skip_blank(text, at) < len(text):
        line += text.count("\n", counted, at)
        yield Unreadable(line, "there is text after the end of the list", excerpt(text[at:][:1000]))


def _parse_element(text: str, start: int, keys: frozenset[str]) -> tuple[Any, str | None, int]:
    """Parse one element; return its value, its error and the position of the comma or bracket after it.

    ``keys`` are the keys of the last complete row.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError, RowError) as error:
        if isinstance(error, json.JSONDecodeError):
            problem = f"the row is not JSON: {_json_message(error)} (line {error.lineno})"
        else:
            problem = f"the row {_error_text(error)}"
        return None, problem, _resume_position(text, start, _end_of_element(text, start), keys)
    end = _skip_blank(text, end)
    if end < len(text) and text[end] not in ",]":
        problem = "the row is followed by neither a comma nor ]"
        return None, problem, _resume_position(text, end, _end_of_element(text, end), keys)
    return value, None, end


def _end_of_element(text: str, at: int) -> int:
    """Return the end of the element at ``at``, by its brackets only."""
    depth = 0
    for match in _STRING_OR_MARK.finditer(text, at):
        mark = match.group()
        if mark in "[{":
            depth += 1
        elif depth == 0 and mark in ",]":
            return match.start()
        elif mark in "]}":
            depth = max(0, depth - 1)
    return len(text)


def _resume_position(text: str, at: int, end: int, keys: frozenset[str]) -> int:
    """Return the position of the first comma before ``end`` that precedes a complete object with ``keys``, else ``end``.

    After a missing quote, brackets and quotes pair wrongly, so ``end`` may lie after several complete rows. Before the
    first row (``keys`` is empty) any object is accepted, and only if the end of the element was not found.
    """
    if not keys and end < len(text):
        return end
    for count, match in enumerate(_COMMA.finditer(text, at, end)):
        if count == _MAX_TRIES:
            break
        try:
            value, after = _DECODER.raw_decode(text, match.end())
        except (ValueError, RecursionError, RowError):
            continue
        after = _skip_blank(text, after)
        if (after == len(text) or text[after] in ",]") and (not keys or value.keys() == keys):
            return match.start()
    return end
