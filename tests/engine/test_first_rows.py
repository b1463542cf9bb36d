"""A view's first rows in a run: no call is made twice, whatever the chunks and wherever it was stopped."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from nfilter import Request
from nfilter_robustft.answer import Answer
from nfilter_robustft.check import Check
from nfilter_robustft.review import Review

STAGES = [Answer, Check, Review]
NUMBERS = random.Random(0).sample(range(1000, 9999), 300)
GOOD = "".join(f"{n}+0 => {n if n % 2 else n + 7}\n" for n in NUMBERS)
WRONG = "".join(f"{n}+0 => {m}\n" for n, m in zip(NUMBERS, NUMBERS[1:] + NUMBERS[:1], strict=True))
TEXT = """name: test
chunk: {chunk}
answer: number
models: {{student: {{use: example.adder}}}}
source: {{use: example.qa, path: rows.qa}}
samples:
  - {{use: robustft.answer, llm: student, prompt: tiny/answer, into: base}}
  - {{use: robustft.check, views: [base], vote: all}}
  - {{use: robustft.review, llm: student, views: [base]}}
"""


class Asked:
    """Every question that reaches the model; ``stop_at`` is the one at which a person ends the run."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.stop_at: int | None = None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    from nfilter_example.model import Adder

    kept = Asked()
    generate = Adder.generate

    def counting(self: Any, requests: Sequence[Request]) -> Any:
        if kept.stop_at is not None and len(kept.questions) >= kept.stop_at:
            raise KeyboardInterrupt
        kept.questions.extend(request.messages[-1].content for request in requests)
        return generate(self, requests)

    monkeypatch.setattr(Adder, "generate", counting)
    return kept


@pytest.mark.parametrize("chunk", [7, 300])
def test_a_good_view_makes_each_call_once(kit: Any, asked: Asked, chunk: int) -> None:
    metrics = kit.run(STAGES, text=TEXT.format(chunk=chunk), rows=GOOD).metrics
    assert len(asked.questions) == len(set(asked.questions)) == 300
    assert kit.json("manifest.json")["calls"]["01-robustft.answer"]["calls"] == 300
    pilot = metrics["stages"]["01-robustft.answer"]["pilot"]
    assert (pilot["verdict"], pilot["asked"]) == ("useful", 300)


@pytest.mark.parametrize("chunk", [7, 300])
def test_a_weak_view_costs_its_first_rows_and_every_row_says_why(
    kit: Any, asked: Asked, chunk: int
) -> None:
    metrics = kit.run(STAGES, text=TEXT.format(chunk=chunk), rows=WRONG).metrics
    assert len(asked.questions) == 64
    assert kit.json("manifest.json")["calls"]["01-robustft.answer"]["calls"] == 64
    assert metrics["stages"]["01-robustft.answer"]["pilot"]["verdict"] == "weak"
    assert metrics["stages"]["02-robustft.check"]["without_a_vote"] == {"base": 300}
    reasons = [row["reason"] for row in kit.decisions("01-robustft.answer")]
    assert len(reasons) == 300
    assert all("no better than chance: base agrees with the label on 0.0%" in r for r in reasons)
    assert len(kit.lines("cleaned.jsonl")) == 300
    warned = [text for text in kit.reporter.warnings if "no better than chance" in text]
    assert len(warned) == 2
    assert "The other 236 rows are not asked" in warned[0]
    assert "No label can be flagged, and every sample is kept" in warned[1]
    assert "no better than chance" in json.dumps(metrics["warnings"])


@pytest.mark.parametrize(("rows", "calls"), [(GOOD, 300), (WRONG, 64)])
def test_a_run_that_was_stopped_among_its_first_rows_pays_for_none_twice(
    kit: Any, asked: Asked, rows: str, calls: int
) -> None:
    text = TEXT.format(chunk=50)
    kit.run(STAGES, text=text, rows=rows, out=kit.home / "whole")
    assert len(asked.questions) == calls
    asked.questions.clear()
    asked.stop_at = 64
    if calls > 64:
        with pytest.raises(KeyboardInterrupt):
            kit.run(STAGES, text=text, rows=rows)
    asked.stop_at = None
    kit.run(STAGES, text=text, rows=rows)
    assert len(asked.questions) == len(set(asked.questions)) == calls
    assert (kit.out / "cleaned.jsonl").read_bytes() == (
        kit.home / "whole" / "cleaned.jsonl"
    ).read_bytes()
