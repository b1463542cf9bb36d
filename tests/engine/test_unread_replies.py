"""The warning of a stage without a result for most rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nfilter import Calls, Contract, Sample, State

Stage = Callable[..., type]
TWENTY = "".join(f"{n}+0 => {n}\n" for n in range(20))
CALLS = (Calls("student", "tiny/answer", 8),)
TAKEN = {"calls": 1, "answer": "1"}
FAILED = {"calls": 2, "failure": "no line with the code", "label": None}


def asking(stage: Stage, notes: Callable[[int], Any], calls: tuple[Calls, ...] = CALLS) -> type:
    """A stage that writes the note of each row's number."""

    def process(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        return [each.note("rated", notes(int(each.query.split("+")[0]))) for each in chunk]

    return stage("extra.asks", process=process, contract=Contract(writes={"rated"}, calls=calls))


def warnings(kit: Any) -> list[str]:
    return [text for text in kit.reporter.warnings if "have no result" in text]


@pytest.mark.types("name a model that follows the instructions: models: {«»: ...}")
def test_most_rows_without_a_result(kit: Any, stage: Stage) -> None:
    kit.run([asking(stage, lambda n: FAILED if n > 8 else TAKEN)], rows=TWENTY)
    (text,) = warnings(kit)
    first = kit.lines("cleaned.jsonl")[9]["id"]
    assert text == (
        f"01-extra.asks: 11 of 20 rows have no result, such as row {first!r}: no line with the code; read the replies with "
        "nfilter explain, and name a model that follows the instructions: models: {student: ...}"
    )
    # It is one of the run, and no second run of the same stage repeats it.
    once = [{"stage": "01-extra.asks", "text": text, "times": 1}]
    assert kit.json("metrics.json")["warnings"] == once
    kit.run([asking(stage, lambda n: FAILED if n > 8 else TAKEN)], rows=TWENTY)
    assert kit.json("metrics.json")["warnings"] == once


@pytest.mark.parametrize(
    "notes",
    [
        lambda n: FAILED if n > 9 else TAKEN,
        lambda n: {"calls": 0, "answer": None, "failure": None},
        lambda n: {"calls": 1, "answer": None, "weak": "no better than chance"},
        lambda n: {"calls": 1, "answer": "5", "failure": None},
        lambda n: "a text",
        lambda n: {"ifd": 0.5},
    ],
)
def test_no_warning(kit: Any, stage: Stage, notes: Callable[[int], Any]) -> None:
    kit.run([asking(stage, notes)], rows=TWENTY)
    assert warnings(kit) == []


def test_few_rows_say_little(kit: Any, stage: Stage) -> None:
    kit.run([asking(stage, lambda n: FAILED)], rows="1+0 => 1\n" * 1 + "2+0 => 2\n")
    assert warnings(kit) == []


def test_replies_without_an_answer(kit: Any, stage: Stage) -> None:
    kit.run([asking(stage, lambda n: {"calls": 1, "answer": None})], rows=TWENTY)
    assert "20 of 20 rows have no result" in warnings(kit)[0]
    assert "its replies have no answer" in warnings(kit)[0]


def test_cells_without_a_result(kit: Any, stage: Stage) -> None:
    kit.run([asking(stage, lambda n: {"failure": "column 'stars' is missing"}, ())], rows=TWENTY)
    (text,) = warnings(kit)
    assert text.endswith(": column 'stars' is missing")
