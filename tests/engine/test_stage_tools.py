"""Tools of a stage in a run: built once, with the rows that the stage receives, part of the fingerprint and of the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import Field

from nfilter import Contract, Sample, StageConfig, ToolArgs, ToolCost, ToolResult, Tools, ToolSite

BUILT: list[Any] = []


class CountConfig(StageConfig):
    """A word."""

    word: str = Field(default="rows", description="What is counted.")


class CountArgs(ToolArgs):
    """None."""


class Count:
    """Counts the rows and remembers its sites."""

    name: ClassVar[str] = "count"
    description: ClassVar[str] = "Counts rows."
    cost: ClassVar[ToolCost] = "free"
    Config: ClassVar[type[StageConfig]] = CountConfig
    Args: ClassVar[type[ToolArgs]] = CountArgs

    @classmethod
    def reads(cls, config: CountConfig) -> frozenset[str]:
        return frozenset({"rows", "labels"})

    @classmethod
    def problems(cls, config: CountConfig, site: ToolSite) -> tuple[str, ...]:
        return ()

    @classmethod
    def identity(cls, config: CountConfig, site: ToolSite) -> str:
        file = site.base_dir / "notes.txt"
        return file.read_text() if file.exists() else ""

    def __init__(self, config: CountConfig, site: ToolSite) -> None:
        BUILT.append(self)
        self.config, self.site = config, site

    def call(self, args: CountArgs, row: Sample | None) -> ToolResult:
        return ToolResult(f"{len(self.site.rows)} {self.config.word}", untrusted=False)


class CountingConfig(StageConfig):
    """Tools."""

    tools: Tools = Field(default=(), description="The tools.")


class Counting:
    """Writes what the tool answers."""

    name: ClassVar[str] = "extra.counting"
    Config: ClassVar[type[StageConfig]] = CountingConfig

    @classmethod
    def contract(cls, config: CountingConfig) -> Contract:
        return Contract(writes=frozenset({"count"}))

    def __init__(self, config: CountingConfig) -> None:
        self.config = config

    def process(self, chunk: Any, state: Any, ctx: Any) -> list[Sample]:
        tools = ctx.tools(self.config.tools)
        texts = [tools["count"].call(CountArgs(), sample).text for sample in chunk]
        return [sample.note("count", text) for sample, text in zip(chunk, texts, strict=True)]


def recipe(word: str = "rows") -> str:
    return (
        "name: test\nchunk: 4\nanswer: number\nsource: {use: example.qa, path: rows.qa}\n"
        f"samples: [{{use: extra.drop}}, {{use: extra.counting, tools: [{{use: count, word: {word}}}]}}]\n"
    )


@pytest.fixture
def run(kit: Any, stage: Callable[..., type]) -> Iterator[Callable[..., Any]]:
    def drop(chunk: Any, state: Any, ctx: Any) -> Any:
        return [each.drop("a test") if each.response == "3" else each for each in chunk]

    stages = [stage("extra.drop", drop), Counting]
    BUILT.clear()
    yield lambda word="rows": kit.run(stages, text=recipe(word), hooks={"tools": [Count]})
    BUILT.clear()


def test_a_tool_is_built_once_and_reads_the_rows_that_the_stage_receives(
    kit: Any, run: Callable[..., Any]
) -> None:
    run()
    assert len(BUILT) == 1
    rows = list(BUILT[0].site.rows)
    assert [row.query for row in rows] == [f"{n}+1" for n in range(10) if n != 2]
    assert all(row.dropped is None for row in rows)
    assert BUILT[0].site.cache_dir == kit.out / "state" / "tools"
    notes = {each.notes["count"] for each in kit.artefact("02-extra.counting").samples() if each.dropped is None}  # fmt: skip
    assert notes == {"9 rows"}


def test_settings_and_code_of_a_tool_are_part_of_the_fingerprint(
    kit: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    run()
    assert len(BUILT) == 1
    run("lines")
    assert len(BUILT) == 2
    assert any("because its inputs changed: config, tools" in text for text in kit.reporter.infos)
    code = "nfilter.registry.plugin_imports.code_of"
    monkeypatch.setattr(code, lambda cls: "another" if cls is Count else "the same")
    run("lines")
    monkeypatch.setattr(code, lambda cls: "third" if cls is Count else "the same")
    run("lines")
    assert any("because its inputs changed: tools" in text for text in kit.reporter.infos)


def test_a_stage_runs_again_when_a_file_of_its_tool_changes(
    kit: Any, run: Callable[..., Any]
) -> None:
    for text, built in (("a", 1), ("a", 1), ("b", 2)):
        (kit.home / "notes.txt").write_text(text)
        run()
        assert len(BUILT) == built


def test_the_lock_has_the_tool_and_its_code(kit: Any, run: Callable[..., Any]) -> None:
    run()
    lock = yaml.safe_load((kit.out / "recipe.lock.yaml").read_text())
    assert lock["samples"][1]["tools"] == [{"use": "count", "word": "rows"}]
    assert lock["lock"]["plugins"]["count"] == "extra 1.0"
    assert "count" in lock["lock"]["code"]
