"""Calls that bring no answer are counted by model and kind: warned of, kept with the figures, shown at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from nfilter_example.model import Adder

from nfilter import Completion, Failure, Request
from nfilter.report.compare import compare
from nfilter.report.explain import explain
from nfilter.report.findings import findings
from nfilter.store.journal import Journal

ENDS = {"0+1": "too_long", "1+1": "too_long", "2+1": "refused", "3+1": "server"}
WARNED = (
    "01-example.ask: 5 of 10 calls to shaky failed (1 refused, 1 server, 3 too_long); `nfilter explain RUN ID` says for a row "
    "what was asked and why"
)


class Shaky(Adder):
    """Fails at four sums in three ways, and thinks about 4+1 for ever."""

    name: ClassVar[str] = "extra.shaky"
    server: ClassVar[str | None] = "server"
    asked: ClassVar[list[str]] = []

    def generate(self, requests: Sequence[Request]) -> Sequence[Completion]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Completion:
        question = request.messages[-1].content.split()[-1]
        type(self).asked.append(question)
        kind = ENDS.get(question)
        if kind == "server":
            kind = type(self).server
        if kind is not None:
            return Completion("", "failed", failure=Failure(kind, f"{question} {kind}"))  # type: ignore[arg-type]
        if question == "4+1":
            return Completion("<think>is it 5 or", "length")
        left, right = question.split("+")
        return Completion(str(int(left) + int(right)))


MORE = """models: {student: {use: example.adder}, shaky: {use: extra.shaky}}
samples:
  - {use: example.ask, llm: shaky, into: view}
"""


@pytest.fixture
def ran(kit: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Shaky, "asked", [])

    def run(**more: Any) -> dict[str, Any]:
        metrics: dict[str, Any] = kit.run(more=MORE, hooks={"backends": [Shaky]}, **more).metrics
        return metrics

    return run


@pytest.mark.types("`nfilter explain RUN ID` says for a row what was asked and why")
def test_each_model_s_failed_calls_are_counted_warned_of_and_shown(kit: Any, ran: Any) -> None:
    metrics = ran()
    counted = {"calls": 10, "failed": 5, "kinds": {"refused": 1, "server": 1, "too_long": 3}}
    assert metrics["failed_calls"] == {"shaky": counted}
    assert json.loads((kit.out / "metrics.json").read_text())["failed_calls"] == {"shaky": counted}
    assert kit.reporter.warnings == [WARNED]
    assert metrics["warnings"] == [{"stage": "01-example.ask", "text": WARNED, "times": 1}]
    said = "5 of 10 calls to shaky failed (1 refused, 1 server, 3 too_long)"
    lines = [line for section in findings(kit.out, metrics) for line in section.lines]
    assert ("failed calls", said) in lines
    assert said in " ".join((kit.out / "report.html").read_text().split())
    table = compare([kit.out])
    (row,) = (row for row in table.rows if row.name == "failed_calls.shaky.failed")
    assert row.cells[0].mean == 5
    # What the warning says to type.
    kept = kit.artefact("01-example.ask").samples()
    key = next(sample.id for sample in kept if sample.query == "2+1")
    assert any("refused" in str(event) for event in explain(kit.out, key).events)


def test_a_run_that_goes_on_counts_no_call_twice(kit: Any, ran: Any) -> None:
    first = ran()
    again = ran()
    assert again["failed_calls"] == first["failed_calls"]
    assert kit.reporter.warnings == []  # nothing ran, and the figures keep the warning
    assert again["warnings"] == first["warnings"]
    Path(kit.out, "01-example.ask", "done.json").unlink()
    asked = len(Shaky.asked)
    assert ran()["failed_calls"] == first["failed_calls"]
    assert Shaky.asked[asked:] in ([], ["3+1"])


def test_an_answer_takes_the_failure_of_an_earlier_attempt_back(
    kit: Any, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran()
    monkeypatch.setattr(Shaky, "server", None)
    shutil.rmtree(kit.out / "01-example.ask")
    asked = len(Shaky.asked)
    counted = {"calls": 10, "failed": 4, "kinds": {"refused": 1, "too_long": 3}}
    assert ran()["failed_calls"] == {"shaky": counted}
    assert Shaky.asked[asked:] == ["3+1"]  # the others are in the journal
    journal = Journal(kit.home / "one.db")
    journal.record_outcomes("01-a", "m", {"k": "server", "l": "timeout"})
    journal.record_outcomes("01-a", "m", {"k": None})
    journal.record_outcomes("02-b", "m", {"k": "server"})
    assert journal.outcomes("01-a") == {"m": {"calls": 1, "failed": 1, "kinds": {"timeout": 1}}}
    journal.forget(["01-a"])
    assert journal.outcomes() == {"m": {"calls": 1, "failed": 1, "kinds": {"server": 1}}}
    journal.close()


def test_a_run_without_calls_says_nothing_of_them(kit: Any) -> None:
    metrics = kit.run().metrics
    assert "failed_calls" not in metrics
    assert not [name for name, _ in findings(kit.out, metrics)[-1].lines if name == "failed calls"]
