"""Full text over a folder or a SQLite file: what is found, what is never read, and the index that is made once."""

from __future__ import annotations

import gc
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nfilter import ToolCall, ToolResult, ToolSite, answer_tool_call
from nfilter.testing import check_tool
from nfilter_tools import passages
from nfilter_tools.lookup import Lookup, LookupConfig


@pytest.fixture
def site(tmp_path: Path) -> ToolSite:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "birds.md").write_text("# Birds\n\nA heron eats fish.\n\nAn owl eats mice.\n")
    (folder / "deep" / "facts.jsonl").write_text(
        '{"q": "What eats mice?", "a": ["An owl", 3]}\nbroken\n{"q": "Otters swim"}\n'
    )
    (folder / "skip.bin").write_text("heron heron heron")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("the heron's password is swordfish")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    return ToolSite(tmp_path, cache_dir=tmp_path / "cache")


def ask(site: ToolSite, query: str, path: str = "notes", **settings: Any) -> ToolResult:
    tool = Lookup(LookupConfig(path=path, **settings), site)
    return answer_tool_call(
        {"lookup": tool}, ToolCall("lookup", json.dumps({"query": query})), None
    )


def test_the_best_passage_comes_first_with_its_place(site: ToolSite) -> None:
    found = ask(site, "mice?")
    assert found.data == ["deep/facts.jsonl:1", "birds.md:1"]
    assert found.text.startswith("[deep/facts.jsonl:1]\n")
    assert "An owl eats mice." in found.text
    assert found.untrusted
    assert ask(site, "otters").data == ["deep/facts.jsonl:3"]
    assert ask(site, "MICE").data == found.data
    assert ask(site, "zebra") == ToolResult(
        "no passage has one of these words", [], untrusted=False
    )


def test_nothing_outside_of_the_folder_is_read(site: ToolSite) -> None:
    for query in ("password", "swordfish", "secret"):
        assert ask(site, query).data == []
    assert "swordfish" not in ask(site, "heron").text


@pytest.mark.parametrize(
    "query",
    ['"', "heron AND", "NOT heron", "heron*", "text: heron", "^heron", "NEAR(heron fish)", "heron OR 1=1", "-heron",
     "heron'); DROP TABLE passages; --", "{place text}: heron", "heron\x00", "(((heron", "%s heron", "../../etc heron"],
)  # fmt: skip
def test_a_query_is_words_and_has_no_operators(query: str, site: ToolSite) -> None:
    found = ask(site, query)
    if not any(char.isalnum() for char in query):
        assert found.text == "lookup: the query has no word; write the words to look for"
    else:
        assert "birds.md:1" in str(found.data)
    assert "birds.md:1" in str(ask(site, "heron").data)


def test_the_index_is_made_once_and_again_when_a_file_changes(
    site: ToolSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[Any] = []
    real = passages._fill
    monkeypatch.setattr(passages, "_fill", lambda *args: filled.append(args) or real(*args))
    first = ask(site, "heron")
    assert ask(site, "heron") == first
    assert len(filled) == 1
    assert site.cache_dir is not None
    (index,) = site.cache_dir.iterdir()
    index.write_bytes(index.read_bytes()[:5000])
    assert ask(site, "heron") == first
    assert len(filled) == 2
    (site.base_dir / "notes" / "birds.md").write_text("A heron sleeps.")
    assert "sleeps" in ask(site, "heron").text
    assert len(filled) == 3
    assert len(list(site.cache_dir.iterdir())) == 2
    assert ask(ToolSite(site.base_dir), "heron").data == ["birds.md:1"]


def test_the_result_is_bounded(site: ToolSite) -> None:
    long = site.base_dir / "notes" / "long.txt"
    long.write_text("\n".join(f"heron {n} " + "x" * 3000 for n in range(50)))
    found = ask(site, "heron", results=20, characters=900)
    assert len(found.data) == 20  # type: ignore[arg-type]
    assert len(found.text) < 20_000
    held = [text for _, text in passages._of_text(long.read_text())]
    assert max(map(len, held)) <= 1200
    assert "".join(held).replace("\n", "") == long.read_text().replace("\n", "")


def test_a_sqlite_file_is_searched_row_by_row(site: ToolSite) -> None:
    with closing(sqlite3.connect(site.base_dir / "facts.db")) as made:
        made.execute('CREATE TABLE "odd "" name" (a TEXT, b INTEGER, c TEXT)')
        made.execute('INSERT INTO "odd "" name" VALUES (?, 1, ?)', ("A heron", "is grey"))
        made.commit()
    found = ask(site, "grey", path="facts.db")
    assert found.data == ['odd " name:1']
    assert found.text == '[odd " name:1]\nA heron\nis grey'


def test_problems_are_seen_before_a_call(site: ToolSite) -> None:
    (site.base_dir / "empty").mkdir()
    for path, says in (
        ("none", "does not exist"),
        ("empty", "has no file that can be searched (.jsonl, .markdown"),
        ("outside/secret.txt", "is neither a folder nor a SQLite file"),
    ):
        (problem,) = Lookup.problems(LookupConfig(path=path), site)
        assert says in problem
    result = check_tool(Lookup, LookupConfig(path="notes"), site, {"query": "heron fish"}, None)
    assert result.data == ["birds.md:1"]
    assert Lookup.reads(LookupConfig(path="notes")) == {"files"}


def test_its_identity_changes_with_a_file_that_is_searched(site: ToolSite) -> None:
    config = LookupConfig(path="notes")
    first = Lookup.identity(config, site)
    assert Lookup.identity(config, site) == first
    (site.base_dir / "notes" / "picture.png").write_text("not searched")
    assert Lookup.identity(config, site) == first
    (site.base_dir / "notes" / "new.md").write_text("Another note.")
    assert Lookup.identity(config, site) != first
    assert Lookup.identity(LookupConfig(path="absent"), site)


def test_the_index_is_closed_with_its_tool(site: ToolSite) -> None:
    tool = Lookup(LookupConfig(path="notes"), site)
    index = tool._index
    assert index.execute("SELECT 1").fetchone() == (1,)
    del tool
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        index.execute("SELECT 1")
