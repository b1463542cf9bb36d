"""``sql``: one SELECT over a SQLite database that cannot be changed."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from nfilter import Sample, StageConfig, ToolArgs, ToolCost, ToolError, ToolResult, ToolSite
from nfilter_tools.passages import contents_of
from nfilter_tools.sqlite_files import JOURNALS, open_read_only

_FUNCTIONS = frozenset({
    "abs", "avg", "ceil", "ceiling", "char", "coalesce", "count", "cume_dist", "date", "datetime", "dense_rank",
    "first_value", "floor", "format", "glob", "group_concat", "hex", "ifnull", "iif", "instr", "julianday", "lag",
    "last_value", "lead", "length", "like", "ln", "log", "log10", "log2", "lower", "ltrim", "max", "min", "mod",
    "nth_value", "ntile", "nullif", "percent_rank", "pow", "power", "printf", "quote", "rank", "replace", "round",
    "row_number", "rtrim", "sign", "sqrt", "strftime", "substr", "substring", "sum", "time", "total", "trim",
    "trunc", "typeof", "unicode", "unixepoch", "upper"
})  # fmt: skip
_STEPS = 1000
"""Instructions of SQLite's virtual machine between two checks of the time limit."""
_CELL = 4000
"""Maximum number of characters of one value in a result."""


class SqlConfig(StageConfig):
    """Settings of ``sql``."""

    path: str = Field(description="The SQLite file, from the recipe's folder.")
    tables: list[str] = Field(
        default=[],
        description="Tables that may be read, also by views; empty: all of the database.",
    )
    rows: int = Field(default=50, ge=1, le=1000, description="Rows of a result, at most 1000.")
    characters: int = Field(
        default=8000, ge=100, le=16000, description="Characters of a result, 100 to 16000."
    )
    seconds: float = Field(default=2.0, gt=0, le=60, description="Seconds per query, up to 60.")


class SqlArgs(ToolArgs):
    """One query."""

    query: str = Field(
        max_length=4000, description="One SELECT in SQLite's dialect. Empty lists the tables and their columns."
    )  # fmt: skip


class Sql:
    """Answers one SELECT over a SQLite file that is opened for reading only, with limits on time, rows and size.

    SQLite's authorizer admits reads of the listed tables and calls of ``_FUNCTIONS``. It refuses everything else: ATTACH,
    PRAGMA, changes, extensions, recursion and the schema table.
    """

    name: ClassVar[str] = "sql"
    description: ClassVar[str] = (
        "Answers one SELECT over a read-only SQLite database. An empty query lists the tables and their columns."
    )
    cost: ClassVar[ToolCost] = "local"
    Config: ClassVar[type[StageConfig]] = SqlConfig
    Args: ClassVar[type[ToolArgs]] = SqlArgs

    @classmethod
    def reads(cls, config: SqlConfig) -> frozenset[str]:
        return frozenset({"database"})

    @classmethod
    def problems(cls, config: SqlConfig, site: ToolSite) -> Iterable[str]:
        """Report a file that is missing or is not a database, and configured tables that it does not have."""
        file = site.base_dir / config.path
        try:
            with closing(_open_limited(file)) as connection:
                present = [name for name, _ in _tables(connection)]
        except (sqlite3.Error, OSError) as error:
            yield f"sql: {file} is no SQLite database that can be read: {error}"
            return
        for name in config.tables:
            if name not in present:
                yield f"sql: {file} has no table {name!r}; tables: {', '.join(present)[:300]}"

    @classmethod
    def identity(cls, config: SqlConfig, site: ToolSite) -> str:
        """A digest of the database, with a journal that is beside it."""
        file = site.base_dir / config.path
        return contents_of(file, *(file.with_name(file.name + end) for end in JOURNALS))

    def __init__(self, config: SqlConfig, site: ToolSite) -> None:
        self._config = config
        self._file = site.base_dir / config.path

    def call(self, args: SqlArgs, row: Sample | None) -> ToolResult:
        """Return the result as lines of JSON: the column names, then one line per row.

        Raises:
            ToolError: if SQLite rejects the query, it is not allowed, or it exceeds the time limit.
        """
        try:
            with closing(_open_limited(self._file)) as connection:
                columns = self._readable(connection)
                if not args.query.strip():
                    return ToolResult("\n".join(f"{name}({', '.join(of)})" for name, of in columns))
                self._confine(connection, [name for name, _ in columns])
                return self._result(connection.execute(args.query))
        except sqlite3.DatabaseError as error:
            raise ToolError(self._why(error)) from error
        except (sqlite3.Warning, sqlite3.Error, ValueError, OverflowError) as error:
            raise ToolError(f"{str(error)[:200]}; write one SELECT") from error

    def _readable(self, connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
        wanted = self._config.tables
        return [each for each in _tables(connection) if not wanted or each[0] in wanted]

    def _confine(self, connection: sqlite3.Connection, tables: list[str]) -> None:
        readable = {name.lower() for name in tables}

        def allowed(action: int, one: str | None, two: str | None, *_more: str | None) -> int:
            if action == sqlite3.SQLITE_SELECT:
                return sqlite3.SQLITE_OK
            if action == sqlite3.SQLITE_FUNCTION and (two or "").lower() in _FUNCTIONS:
                return sqlite3.SQLITE_OK
            # The name of the view that reads is not checked: a query can give a subquery the name of a view.
            if action == sqlite3.SQLITE_READ and (one or "").lower() in readable:
                return sqlite3.SQLITE_OK
            return sqlite3.SQLITE_DENY

        connection.set_authorizer(allowed)
        deadline = time.monotonic() + self._config.seconds
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)

    def _result(self, cursor: sqlite3.Cursor) -> ToolResult:
        if cursor.description is None:
            raise ToolError("the query returns no rows; write one SELECT")
        lines = [json.dumps([each[0] for each in cursor.description], ensure_ascii=False)]
        size, cut = len(lines[0]), ""
        for number, row in enumerate(cursor):
            line = json.dumps([_cell(value) for value in row], ensure_ascii=False)
            size += len(line) + 1
            if number == self._config.rows or size > self._config.characters:
                cut = f"(cut after {number} rows)"
                break
            lines.append(line)
        return ToolResult("\n".join([*lines, *filter(None, [cut])]), {"rows": len(lines) - 1})

    def _why(self, error: sqlite3.DatabaseError) -> str:
        text = str(error)[:200]
        if "interrupted" in text:
            return f"the query took more than {self._config.seconds:g} s; write one that reads fewer rows"
        if "not authorized" in text or "prohibited" in text or "readonly" in text:
            return f"{text}: only SELECT over the listed tables with plain functions is allowed; send an empty query for them"
        return f"{text}; write one SELECT"


def _open_limited(file: Path) -> sqlite3.Connection:
    """Open the database for reading only, with limits on the size of queries and values."""
    connection = open_read_only(file)
    for limit, most in (
        (sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 50_000),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 20),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(limit, most)
    return connection


def _tables(connection: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    """Yield each table and view with its columns."""
    found = connection.execute(
        "SELECT m.name, group_concat(p.name, char(10)) FROM sqlite_master m, pragma_table_info(m.name) p "
        "WHERE m.type IN ('table', 'view') GROUP BY m.name ORDER BY m.name"
    )
    for name, columns in found:
        if not name.lower().startswith(("sqlite_", "pragma_")):
            yield name, columns.split("\n")


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and len(value) > _CELL:
        return f"{value[:_CELL]}..."
    return value
