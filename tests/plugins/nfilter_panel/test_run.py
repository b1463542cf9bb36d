"""A panel with a calculator in a run: the journal, a resumed run, what ``explain`` tells, and the figures."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from nfilter import Abilities, Completion, Generates, Request, Site, StageConfig, ToolCall
from nfilter.engine.run import run
from nfilter.recipe.model import load
from nfilter.report.explain import explain, render
from nfilter_metrics.detection import Detection
from nfilter_metrics.label_accuracy import Relabel
from nfilter_panel.review import Review
from nfilter_tools.calculator import Calculator

RECIPE = """
name: panel
chunk: 2
answer: number
models: {judge: {use: scripted}}
source: {use: example.qa, path: rows.qa, truth: true}
samples:
  - use: panel.review
    reviewers:
      - {llm: judge, name: ann, instructions: You are ann., tools: [calculator]}
      - {llm: judge, name: bob, instructions: You are bob., tools: [{use: calculator, digits: 6}]}
      - {llm: judge, name: cid, instructions: You are cid.}
"""
ROWS = "12*7 => 84 | 84\n13*7 => 90 | 91\n14*7 => 98 | 98\n\x1b[2Jand 15*7 => 100 | 105\n"


class NoConfig(StageConfig):
    """None."""


class Scripted:
    """Computes with the calculator where it has one, and is 3 off without."""

    name: ClassVar[str] = "scripted"
    Config: ClassVar[type[StageConfig]] = NoConfig
    asked: ClassVar[list[Request]] = []

    @classmethod
    def abilities(cls, config: NoConfig) -> Abilities:
        return Abilities(frozenset({Generates}))

    @classmethod
    def problems(cls, config: NoConfig, site: Site) -> Iterable[str]:
        return ()

    def __init__(self, config: NoConfig, site: Site) -> None: ...

    def fingerprint(self) -> str:
        return "scripted 1"

    def close(self) -> None: ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked.extend(requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Completion:
        text = request.messages[0].content
        product = re.findall(r"\d+\*\d+", text)[0]
        results = [each.content.splitlines()[0] for each in request.messages if each.role == "tool"]
        if request.tools and not results:
            call = ToolCall("calculator", json.dumps({"expression": product}), "c1")
            return Completion("\x1b[31mLet me compute.", completion_tokens=4, tool_calls=(call,))
        one, other = map(int, product.split("*"))
        code = re.findall(r"^BEGIN (\w+)$", text, re.MULTILINE)[0]
        answer = results[0] if results else str(one * other + 3)
        return Completion(f"So it is.\nAnswer {code}: {answer}", completion_tokens=5)


@pytest.fixture
def done(
    folder: Callable[..., Path], catalogue: Callable[..., Any]
) -> tuple[Path, Callable[[], Any]]:
    home = folder({"r.yaml": RECIPE, "rows.qa": ROWS})
    metrics = [Detection, Relabel]
    plugins = catalogue(stages=[Review], tools=[Calculator], backends=[Scripted], metrics=metrics)
    Scripted.asked.clear()

    def again() -> Any:
        return run(load(home / "r.yaml", plugins), plugins, home / "out")

    again()
    return home / "out", again


def test_the_panel_finds_and_mends_the_wrong_labels(done: tuple[Path, Any]) -> None:
    out, again = done
    figures = json.loads((out / "metrics.json").read_text())
    detection, relabel = figures["detection"], figures["relabel"]
    assert (detection["precision"], detection["recall"]) == (1.0, 1.0)
    assert (relabel["labels_before"], relabel["labels_after"]) == (0.5, 1.0)
    # ann and bob take two calls and agree; cid is heard, and in the exchange two votes are enough.
    count = len(Scripted.asked)
    lock = out / "recipe.lock.yaml"
    assert "digits: 12" in lock.read_text()
    again()
    assert len(Scripted.asked) == count
    (out / "01-panel.review" / "done.json").unlink()
    for chunk in (out / "01-panel.review").glob("*0001*"):
        chunk.unlink()
    again()
    assert len(Scripted.asked) == count


def test_every_step_is_told(done: tuple[Path, Any]) -> None:
    out, _ = done
    ids = [json.loads(line)["id"] for line in (out / "cleaned.jsonl").read_text().splitlines()]
    buffer = io.StringIO()
    render(explain(out, ids[3]), Console(file=buffer, width=300))
    story = buffer.getvalue()
    assert "\x1b" not in story.replace("\x1b[1m", "")
    assert "relabelled from '100' to '105'" in story
    for step in (
        "steps 1",
        "phase alone",
        "phase exchange",
        "tool calculator",
        'arguments {"expression": "15*7"}',
        "result 105",
        "(calls calculator",
    ):
        assert step in story, step
