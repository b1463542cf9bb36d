"""One SELECT over a database that cannot be changed: results, limits, and statements that are refused."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nfilter import ToolCall, ToolSite, answer_tool_call
from nfilter.testing import check_tool
from nfilter_tools.sql import Sql, SqlConfig


@pytest.fixture
def site(tmp_path: Path) -> ToolSite:
    with closing(sqlite3.connect(tmp_path / "facts.db")) as made:
        made.executescript(
            "CREATE TABLE city (name TEXT, people INTEGER, note TEXT);"
            "INSERT INTO city VALUES ('Bern', 134000, 'x'), ('Rome', 2750000, NULL), ('Oslo', 717000, 'y');"
            "CREATE TABLE secret (word TEXT); INSERT INTO secret VALUES ('swordfish');"
            "CREATE VIEW large AS SELECT name FROM city WHERE people > 500000;"
            "CREATE VIEW leak AS SELECT word FROM secret;"
            "CREATE TABLE many (n INTEGER);"
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000) INSERT INTO many SELECT n FROM c;"
        )
        made.commit()
    return ToolSite(tmp_path)


def ask(site: ToolSite, query: str, **settings: Any) -> str:
    tool = Sql(SqlConfig(path="facts.db", **settings), site)
    call = ToolCall("sql", json.dumps({"query": query}))
    return answer_tool_call({"sql": tool}, call, None).text


TABLES = ["city", "many"]


def test_a_select_is_answered_as_lines_of_json(site: ToolSite) -> None:
    query = "SELECT name, people / 1000.0 AS k, note FROM city WHERE people > 200000 ORDER BY name"
    assert ask(site, query).split("\n") == ['["name", "k", "note"]', '["Oslo", 717.0, "y"]', '["Rome", 2750.0, null]']  # fmt: skip
    assert ask(site, "SELECT count(*), max(people), upper('a') FROM city").endswith(
        '[3, 2750000, "A"]'
    )
    assert ask(site, "WITH c AS (SELECT name FROM city) SELECT count(*) FROM c").endswith("[3]")
    assert ask(site, "SELECT name FROM large ORDER BY 1") == '["name"]\n["Oslo"]\n["Rome"]'
    assert ask(site, "SELECT rank() OVER (ORDER BY people) FROM city LIMIT 1").endswith("[1]")


def test_an_empty_query_lists_what_may_be_read(site: ToolSite) -> None:
    assert ask(site, "", tables=["city"]) == "city(name, people, note)"
    assert "secret(word)" in ask(site, " ")


REFUSED = [
    "INSERT INTO city VALUES ('a', 1, 'b')", "UPDATE city SET people = 0", "DELETE FROM city", "DROP TABLE city",
    "CREATE TABLE x (a)", "CREATE TEMP TABLE x AS SELECT 1", "ALTER TABLE city ADD COLUMN z", "REPLACE INTO city VALUES (1,2,3)",
    "ATTACH DATABASE '{folder}/other.db' AS o", "ATTACH ':memory:' AS o", "DETACH main", "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = 1", "PRAGMA table_info(city)", "VACUUM INTO '{folder}/other.db'", "VACUUM", "REINDEX", "ANALYZE",
    "BEGIN", "SAVEPOINT a", "SELECT load_extension('x.so')", "SELECT readfile('/etc/passwd')", "SELECT writefile('x', 'y')",
    "SELECT * FROM sqlite_master", "SELECT * FROM sqlite_schema", "SELECT * FROM pragma_table_info('city')",
    "SELECT * FROM pragma_database_list", "SELECT name FROM city; DROP TABLE city", "SELECT 1; SELECT 2",
    "SELECT * FROM secret", "SELECT word FROM leak", "SELECT (SELECT word FROM secret) FROM city",
    "WITH city AS (SELECT * FROM secret) SELECT * FROM city", "SELECT * FROM (SELECT word FROM secret) AS city",
    "SELECT name FROM city UNION SELECT word FROM secret", "SELECT name FROM city ORDER BY (SELECT word FROM secret)",
    "SELECT name FROM city WHERE 'swordfish' IN secret", "SELECT zeroblob(1000000000)", "SELECT fts3_tokenizer('x')",
    "SELECT randomblob(10)", "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c",
    "SELECT * FROM json_each('[1]')", "SELECT sqlite_version()", "SELECT 'a\x00b", "not sql",
    "SELECT nope FROM city", "EXPLAIN", "--", ";",
]  # fmt: skip


@pytest.mark.parametrize("query", REFUSED)
def test_everything_else_is_refused_and_changes_nothing(query: str, site: ToolSite) -> None:
    file = site.base_dir / "facts.db"
    before = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns
    tool = Sql(SqlConfig(path="facts.db", tables=TABLES), site)
    call = ToolCall("sql", json.dumps({"query": query.format(folder=site.base_dir)}))
    result = answer_tool_call({"sql": tool}, call, None)
    assert result.failed, result.text
    assert "swordfish" not in result.text.replace(query, "")
    assert (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns) == before
    assert [path.name for path in site.base_dir.iterdir()] == ["facts.db"]


def test_a_refusal_says_what_may_be_asked(site: ToolSite) -> None:
    assert ask(site, "DELETE FROM city") == (
        "sql: not authorized: only SELECT over the listed tables with plain functions is allowed; send an empty query for them"
    )
    assert ask(site, "SELECT nope FROM city") == "sql: no such column: nope; write one SELECT"


def test_time_rows_and_size_are_bounded(site: ToolSite) -> None:
    start = time.monotonic()
    slow = ask(
        site, "SELECT count(*) FROM many a, many b, many c WHERE a.n + b.n + c.n = 0", seconds=0.3
    )
    assert "the query took more than 0.3 s" in slow
    assert time.monotonic() - start < 5
    rows = ask(site, "SELECT n FROM many", rows=3).split("\n")
    assert rows == ['["n"]', "[1]", "[2]", "[3]", "(cut after 3 rows)"]
    text = ask(site, "SELECT n FROM many", rows=1000, characters=200)
    assert len(text) < 230
    assert text.endswith(" rows)")
    wide = ask(site, "SELECT printf('%9000d', 1) FROM city", characters=16000)
    assert len(wide) < 16100
    assert len(ask(site, "SELECT group_concat(n) FROM many a").split("\n")[1]) < 4100


def test_a_database_with_a_journal_beside_it_is_read_with_it(site: ToolSite) -> None:
    with closing(sqlite3.connect(site.base_dir / "facts.db")) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO city VALUES ('Kyiv', 2950000, NULL)")
        writer.commit()
        assert "Kyiv" in ask(site, "SELECT name FROM city")


def test_the_kit_takes_it_and_problems_are_seen_before_a_call(site: ToolSite) -> None:
    config = SqlConfig(path="facts.db")
    result = check_tool(Sql, config, site, {"query": "SELECT name FROM city"}, None)
    assert result.untrusted
    assert Sql.reads(config) == {"database"}
    for path, tables, says in (
        ("none.db", [], "is no SQLite database that can be read"),
        ("facts.db", ["town"], "has no table 'town'; tables: city, large, leak, many, secret"),
    ):
        (problem,) = Sql.problems(SqlConfig(path=path, tables=tables), site)
        assert says in problem
    (site.base_dir / "text.db").write_text("no database at all, only text " * 40)
    (problem,) = Sql.problems(SqlConfig(path="text.db"), site)
    assert "is no SQLite database" in problem


def test_its_identity_changes_with_the_database(site: ToolSite) -> None:
    (file,) = site.base_dir.glob("*.db")
    config = SqlConfig(path=file.name)
    first = Sql.identity(config, site)
    assert Sql.identity(config, site) == first
    beside = file.with_name(f"{file.name}-wal")
    beside.write_bytes(b"journal")
    assert Sql.identity(config, site) != first
    beside.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE another (a)")
    connection.close()
    assert Sql.identity(config, site) != first
