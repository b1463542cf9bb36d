"""A run measures how fast the models of this machine answer, says how long a stage takes, and keeps it for `plan`."""

from __future__ import annotations

from typing import Any

import pytest

from nfilter.models import pace
from nfilter_robustft.answer import Answer

ROWS = "".join(f"{n}+0 => {n}\n" for n in range(200))
TEXT = (
    "name: test\nanswer: number\nmodels: {student: {use: example.adder}}\nsource: {use: example.qa, path: rows.qa}\n"
    "samples:\n  - {use: robustft.answer, llm: student, prompt: tiny/answer}\n"
)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything measured counts, and any time is long."""
    monkeypatch.setattr(pace, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(pace, "_LONG", 0.0)


@pytest.mark.types("fewer rounds:, a smaller max_tokens:, or a faster model")
def test_a_run_says_how_long_a_stage_takes_and_keeps_what_it_measured(kit: Any) -> None:
    kit.run([Answer], text=TEXT, rows=ROWS)
    said = [text for text in kit.reporter.infos if "of calls to student left, at" in text]
    assert said
    assert said[0].startswith("01-robustft.answer: about ")
    found = pace.paces(kit.out / pace.PACES)["01-robustft.answer"]["student"]
    assert found["calls"] >= 64
    assert found["seconds"] > 0
    # What it says to try: shorter answers are other calls, and the rest of the run is used again.
    kit.run([Answer], text=TEXT, rows=ROWS, assignments=["samples.0.max_tokens=8"])
    assert kit.lines("cleaned.jsonl")


def test_a_model_behind_an_api_is_not_measured(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfilter_example.model import Adder

    from nfilter.api.budget import Price

    monkeypatch.setattr(
        Adder, "price", classmethod(lambda cls, config: Price(0.0, 0.0)), raising=False
    )
    kit.run([Answer], text=TEXT, rows=ROWS)
    assert not (kit.out / pace.PACES).exists()
    assert not any("left, at" in text for text in kit.reporter.infos)
