"""``lookup``: passages of a local folder or SQLite file, by full text."""

from __future__ import annotations

import re
import sqlite3
import weakref
from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar

from pydantic import Field

from nfilter import Sample, StageConfig, ToolArgs, ToolCost, ToolError, ToolResult, ToolSite
from nfilter_tools.passages import SUFFIXES, contents_of, files_of, index_of

_WORD = re.compile(r"\w+")
_MOST_WORDS = 32


class LookupConfig(StageConfig):
    """Settings of ``lookup``."""

    path: str = Field(
        description="A folder of text (.txt, .md, .rst, .jsonl) or a SQLite file, from the recipe's folder."
    )
    results: int = Field(default=5, ge=1, le=20, description="Passages of a result, at most 20.")
    characters: int = Field(
        default=600, ge=50, le=900, description="Characters of each passage that are shown, 50 to 900."
    )  # fmt: skip


class LookupArgs(ToolArgs):
    """The query."""

    query: str = Field(
        max_length=500,
        description="Words to look for; passages with more and rarer ones come first.",
    )


class Lookup:
    """Finds passages in a local folder or SQLite file by full text, best first (BM25).

    The index is built once, kept in the run's folder, and rebuilt when a file changes. Links in the folder are not
    followed. The query is a set of words without operators.
    """

    name: ClassVar[str] = "lookup"
    description: ClassVar[str] = (
        "Finds passages in local reference texts that hold the words of the query, best first."
    )
    cost: ClassVar[ToolCost] = "local"
    Config: ClassVar[type[StageConfig]] = LookupConfig
    Args: ClassVar[type[ToolArgs]] = LookupArgs

    @classmethod
    def reads(cls, config: LookupConfig) -> frozenset[str]:
        return frozenset({"files"})

    @classmethod
    def problems(cls, config: LookupConfig, site: ToolSite) -> Iterable[str]:
        """Report a path that does not exist, or has nothing that can be searched."""
        path = site.base_dir / config.path
        try:
            if not path.exists():
                yield f"lookup: {path} does not exist"
            elif path.is_dir() and not files_of(path):
                yield f"lookup: {path} has no file that can be searched ({', '.join(SUFFIXES)})"
            elif path.is_file() and not path.read_bytes()[:16].startswith(b"SQLite format 3"):
                yield f"lookup: {path} is neither a folder nor a SQLite file"
        except (ToolError, OSError) as error:
            yield f"lookup: {error}"

    @classmethod
    def identity(cls, config: LookupConfig, site: ToolSite) -> str:
        """A digest of the files."""
        return contents_of(site.base_dir / config.path)

    def __init__(self, config: LookupConfig, site: ToolSite) -> None:
        self._config = config
        self._site = site

    def call(self, args: LookupArgs, row: Sample | None) -> ToolResult:
        """Return the best passages, each with its place.

        Raises:
            ToolError: if the query has no word, or the files cannot be read.
        """
        words = _WORD.findall(args.query)[:_MOST_WORDS]
        if not words:
            raise ToolError("the query has no word; write the words to look for")
        # Each word is quoted, so that none is an operator of the full-text search.
        query = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
        try:
            found = self._index.execute(
                "SELECT place, text FROM passages WHERE passages MATCH ? ORDER BY bm25(passages), rowid LIMIT ?",
                (query, self._config.results),
            ).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise ToolError(f"the texts cannot be searched: {str(error)[:200]}") from error
        if not found:
            return ToolResult("no passage has one of these words", [], untrusted=False)
        text = "\n\n".join(f"[{place[:200]}]\n{self._cut(passage)}" for place, passage in found)
        return ToolResult(text, [place for place, _ in found])

    def _cut(self, text: str) -> str:
        most = self._config.characters
        return text if len(text) <= most else f"{text[:most]}..."

    @cached_property
    def _index(self) -> sqlite3.Connection:
        found = index_of(self._site.base_dir / self._config.path, self._site.cache_dir)
        weakref.finalize(self, found.close)
        return found
