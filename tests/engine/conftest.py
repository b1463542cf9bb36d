"""Stages made of functions, and runs of them over a few rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nfilter import Contract, Request, Sample, StageConfig, TokenSample
from nfilter.engine.run import RunResult, run
from nfilter.recipe.model import load
from nfilter.registry.loading import Plugins
from nfilter.store.artefacts import Artefact
from nfilter.store.files import read_json, read_jsonl
from nfilter.store.run_directory import RunDirectory
from nfilter.store.samples import open_samples

ROWS = "".join(f"{n}+1 => {n + 1}\n" for n in range(10))


class PlainConfig(StageConfig):
    """One setting, so that a config can change."""

    tag: str = ""


def unchanged(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
    return chunk


def make_stage(
    name: str = "extra.stage",
    process: Callable[[Sequence[Sample], Any, Any], Any] = unchanged,
    *,
    fit: Callable[[Any, Any], Any] | None = None,
    contract: Contract | None = None,
) -> type:
    """Return a sample stage with the given functions as methods."""

    def start(self: Any, config: PlainConfig) -> None:
        self.config = config

    members: dict[str, Any] = {
        "name": name,
        "Config": PlainConfig,
        "__init__": start,
        "contract": classmethod(lambda cls, config: contract or Contract()),
        "process": lambda self, chunk, state, ctx: process(chunk, state, ctx),
    }
    if fit is not None:
        members["fit"] = lambda self, stream, ctx: fit(stream, ctx)
    return type("Stage", (), members)


@dataclass
class Reporter:
    """Records the messages of a run."""

    infos: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        self.infos.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, total: int | None, text: str, note: Callable[[], str] | None = None) -> Any:
        from nfilter.progress import QuietReporter

        return QuietReporter().progress(total, text, note)


@dataclass
class Kit:
    """Runs recipes in a temporary folder."""

    home: Path
    catalogue: Callable[..., Plugins]
    reporter: Reporter = field(default_factory=Reporter)

    @property
    def out(self) -> Path:
        return self.home / "out"

    def recipe_text(self, stages: Sequence[type], more: str = "", chunk: int = 4) -> str:
        entries = "".join(f"  - {{use: {stage.name}}}\n" for stage in stages)  # type: ignore[attr-defined]
        text = f"name: test\nchunk: {chunk}\nanswer: number\n"
        if "models:" not in more:
            text += "models: {student: {use: example.adder}}\n"
        if "source:" not in more:
            text += "source: {use: example.qa, path: rows.qa}\n"
        return text + (f"samples:\n{entries}" if stages else "") + more

    def run(
        self,
        stages: Sequence[type] = (),
        *,
        rows: str = ROWS,
        more: str = "",
        chunk: int = 4,
        text: str | None = None,
        out: Path | None = None,
        assignments: Sequence[str] = (),
        hooks: dict[str, Any] | None = None,
    ) -> RunResult:
        """Run stages over rows; ``more`` is appended to the recipe."""
        (self.home / "rows.qa").write_text(rows, encoding="utf-8")
        recipe_text = text if text is not None else self.recipe_text(stages, more, chunk)
        (self.home / "r.yaml").write_text(recipe_text, encoding="utf-8")
        self.reporter.infos.clear()
        self.reporter.warnings.clear()
        plugins = self.catalogue(stages=list(dict.fromkeys(stages)), **(hooks or {}))
        recipe = load(self.home / "r.yaml", plugins, assignments)
        return run(recipe, plugins, out or self.out, reporter=self.reporter)

    def artefact(self, name: str) -> Artefact[Sample]:
        return open_samples(self.out / name)

    def tokens(self, name: str) -> Artefact[TokenSample]:
        """The artefact of encoding or of a token stage, by its folder."""
        found = RunDirectory(self.out).token_stages()
        return next(artefact for _, artefact in found if artefact.directory.name == name)

    def decisions(self, name: str) -> list[dict[str, Any]]:
        return list(self.artefact(name).decisions())

    def lines(self, file: str) -> list[dict[str, Any]]:
        return list(read_jsonl(self.out / file))

    def json(self, file: str) -> Any:
        return read_json(self.out / file)


@pytest.fixture
def kit(tmp_path: Path, catalogue: Callable[..., Plugins]) -> Kit:
    return Kit(tmp_path, catalogue)


@pytest.fixture
def stage() -> Callable[..., type]:
    return make_stage


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every question that reaches the model, in any rank."""
    from nfilter_example.model import Adder

    questions: list[str] = []
    generate = Adder.generate

    def counting(self: Any, requests: Sequence[Request]) -> Any:
        questions.extend(request.messages[-1].content for request in requests)
        return generate(self, requests)

    monkeypatch.setattr(Adder, "generate", counting)
    return questions
