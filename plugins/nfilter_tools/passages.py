"""The passages of a folder or of a SQLite file, and a full-text index over them."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from nfilter import ToolError, publishing_file, strings_in
from nfilter_tools.sqlite_files import open_read_only

SUFFIXES = (".jsonl", ".markdown", ".md", ".rst", ".txt")
MOST_FILES = 20_000
MOST_BYTES = 512 * 2**20
_PASSAGE = 1200
"""Maximum number of characters of a passage; paragraphs are joined up to it."""

Passage = tuple[str, str]
"""Its place (a path and a line, or a table and a row), and its text."""


def files_of(folder: Path) -> list[Path]:
    """Return the text files under ``folder``, sorted. Links are not followed, so all files are inside the folder.

    Raises:
        ToolError: if there are too many files, or too many bytes in total.
    """
    found: list[Path] = []
    size = 0
    for here, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not (Path(here) / name).is_symlink())
        for name in sorted(names):
            path = Path(here) / name
            if path.suffix.lower() not in SUFFIXES or path.is_symlink() or not path.is_file():
                continue
            found.append(path)
            size += path.stat().st_size
            if len(found) > MOST_FILES or size > MOST_BYTES:
                raise ToolError(
                    f"{folder} has more than {MOST_FILES} files or {MOST_BYTES // 2**20} MiB of text; name a smaller folder"
                )
    return found


def index_of(path: Path, cache: Path | None) -> sqlite3.Connection:
    """Return the index of ``path``, a folder or a SQLite file; an index of the same contents is read from ``cache``.

    Raises:
        ToolError: if nothing can be read from ``path``.
    """
    parts = _parts(path)
    passages = _of_files(parts) if path.is_dir() else _of_database(path)
    if cache is None:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _fill(connection, passages)
        return connection
    target = cache / f"lookup-{_digest(parts)}.db"
    if not _is_whole(target):
        cache.mkdir(parents=True, exist_ok=True)
        with (
            publishing_file(target) as made,
            closing(sqlite3.connect(made, isolation_level=None)) as new,
        ):
            new.execute("PRAGMA journal_mode=OFF")
            _fill(new, passages)
    return open_read_only(target)


def contents_of(*paths: Path) -> str:
    """Return a digest of the files at ``paths`` that exist; of a folder, of those that are indexed.

    Raises:
        ToolError: if they are too many or too large.
    """
    return _digest(part for path in paths if path.exists() for part in _parts(path))


def _parts(path: Path) -> list[tuple[str, Path]]:
    """The files that are indexed, each with its name in the index."""
    if path.is_dir():
        return [(each.relative_to(path).as_posix(), each) for each in files_of(path)]
    return [(path.name, path)]


def _is_whole(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        with closing(open_read_only(file)) as connection:
            return bool(connection.execute("SELECT count(*) FROM whole").fetchone() == (1,))
    except sqlite3.Error:
        return False


def _fill(connection: sqlite3.Connection, passages: Iterator[Passage]) -> None:
    try:
        connection.execute("CREATE VIRTUAL TABLE passages USING fts5(place UNINDEXED, text)")
    except sqlite3.OperationalError as error:
        raise ToolError(f"this Python's SQLite has no full-text search: {error}") from error
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO passages VALUES (?, ?)", passages)
    connection.execute("CREATE TABLE whole AS SELECT 1 AS one")
    connection.execute("COMMIT")


def _digest(parts: Iterable[tuple[str, Path]]) -> str:
    """Return a digest of the names and contents of all files."""
    whole = hashlib.sha256(b"1")
    for name, path in parts:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(json.dumps([name, content]).encode())
    return whole.hexdigest()[:32]


def _of_files(parts: Iterable[tuple[str, Path]]) -> Iterator[Passage]:
    for name, path in parts:
        text = path.read_text(encoding="utf-8", errors="replace")
        split = _of_lines if path.suffix.lower() == ".jsonl" else _of_text
        for line, passage in split(text):
            yield f"{name}:{line}", passage


def _of_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the strings of each row with its line; lines that are not JSON are skipped."""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            strings = list(strings_in(json.loads(line)))
        except (ValueError, RecursionError):
            continue
        yield from ((number, part) for _, part in _of_text("\n".join(strings)))


def _of_text(text: str) -> Iterator[tuple[int, str]]:
    """Yield paragraphs, joined and split to at most ``_PASSAGE`` characters, each with its first line."""
    held: list[str] = []
    start = size = 0
    for number, line in enumerate(text.splitlines(), start=1):
        ends = not line.strip() and size > _PASSAGE // 2
        if held and (ends or size + len(line) > _PASSAGE):
            yield start, "\n".join(held).strip()
            held, size = [], 0
        if not held and not line.strip():
            continue
        start = start if held else number
        for at in range(0, max(1, len(line)), _PASSAGE):
            if at:
                yield start, "\n".join(held).strip()
                held, size, start = [], 0, number
            part = line[at : at + _PASSAGE]
            held.append(part)
            size += len(part) + 1
    if held:
        yield start, "\n".join(held).strip()


def _of_database(path: Path) -> Iterator[Passage]:
    """Yield the texts of every row of every table."""
    try:
        with closing(open_read_only(path)) as connection:
            tables = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
            ).fetchall()
            for (table,) in tables:
                quoted = '"' + table.replace('"', '""') + '"'
                rows = connection.execute(f"SELECT * FROM {quoted}")  # noqa: S608 - a name from the schema, quoted
                for number, row in enumerate(rows, start=1):
                    text = "\n".join(value for value in row if isinstance(value, str))
                    for _, part in _of_text(text):
                        yield f"{table}:{number}", part
    except sqlite3.Error as error:
        raise ToolError(f"{path} is no SQLite database that can be read: {error}") from error
