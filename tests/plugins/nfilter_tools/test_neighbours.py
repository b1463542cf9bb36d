"""Near rows against cosines computed here; never the row itself, never a column of the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nfilter import Message, Sample, ToolCall, ToolResult, ToolSite, answer_tool_call
from nfilter.testing import FakeContext, FakeEncoder, check_tool
from nfilter_tools.neighbours import Neighbours, NeighboursArgs, NeighboursConfig

QUESTIONS = ["red heron fish", "red heron", "heron fish lake", "green owl", "owl mice", "otter"]


def sample(number: int, text: str) -> Sample:
    messages = (Message("user", text), Message("assistant", f"label {number}"))
    return Sample(f"r{number}", messages, meta={"truth": f"TRUTH {number}", "split": "train"})


ROWS = [sample(number, text) for number, text in enumerate(QUESTIONS)]
ENCODER = FakeEncoder()
CTX = FakeContext(models={"encoder": ENCODER})
SITE = ToolSite(Path(), ROWS, CTX.model)


def near(row: Sample, k: int, site: ToolSite = SITE, *, labels: bool = False) -> ToolResult:
    tool = Neighbours(NeighboursConfig(labels=labels), site)
    return tool.call(NeighboursArgs(k=k), row)


def test_they_are_the_rows_with_the_highest_cosines() -> None:
    vectors = ENCODER.embed(QUESTIONS).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, row in enumerate(ROWS):
        cosines = vectors @ vectors[number]
        expected = sorted((n for n in range(6) if n != number), key=lambda n: -cosines[n])[:3]
        found = near(row, 3).data
        assert [name for name, _ in found] == [f"r{n}" for n in expected]  # type: ignore[union-attr, misc]
        assert [c for _, c in found] == pytest.approx([cosines[n] for n in expected], abs=1e-5)  # type: ignore[union-attr, misc]


def test_the_row_itself_and_its_kin_are_never_among_them() -> None:
    made = Sample("m", ROWS[0].messages, parents=("r0", "r3"))
    dropped = sample(9, "red heron fish").drop("a test")
    copy = sample(8, "red heron fish")
    site = ToolSite(Path(), [*ROWS, made, dropped, copy], CTX.model)
    assert [name for name, _ in near(ROWS[0], 20, site).data] == [
        "r8",
        "r1",
        "r2",
        *_rest(site, ROWS[0]),
    ]  # type: ignore[union-attr, misc]
    names = {name for name, _ in near(made, 20, site).data}  # type: ignore[union-attr, misc]
    assert names == {"r1", "r2", "r4", "r5", "r8"}


def _rest(site: ToolSite, row: Sample) -> list[str]:
    return [name for name, _ in near(row, 20, site).data][3:]  # type: ignore[union-attr, misc]


def test_labels_are_shown_only_where_the_config_says_so() -> None:
    without, with_labels = near(ROWS[0], 2).text, near(ROWS[0], 2, labels=True).text
    assert without.split("\n")[1] == "question: red heron"
    assert "label" not in without
    assert "question: red heron\nlabel: label 1" in with_labels
    assert near(ROWS[0], 2).untrusted
    for text in (without, with_labels):
        assert "TRUTH" not in text
        assert "train" not in text
    assert Neighbours.reads(NeighboursConfig()) == {"row", "rows"}
    assert Neighbours.reads(NeighboursConfig(labels=True)) == {"row", "rows", "labels"}


def test_other_truth_columns_and_another_order_change_nothing() -> None:
    scrambled = [
        Sample(row.id, row.messages, meta={"truth": f"other {n}"}) for n, row in enumerate(ROWS)
    ]
    again = ToolSite(Path(), scrambled[::-1], CTX.model)
    assert near(ROWS[0], 5, again, labels=True) == near(ROWS[0], 5, labels=True)


def test_what_is_missing_is_said() -> None:
    def told(site: ToolSite, row: Sample | None) -> str:
        tool = Neighbours(NeighboursConfig(), site)
        return answer_tool_call({"neighbours": tool}, ToolCall("neighbours", "{}"), row).text

    assert told(SITE, None) == "neighbours: there is no row to find neighbours of"
    assert (
        told(ToolSite(Path(), ROWS), ROWS[0])
        == "neighbours: there is no encoder to compare questions with"
    )
    assert (
        told(ToolSite(Path(), ROWS[:1], CTX.model), ROWS[0])
        == "neighbours: the dataset has no other rows"
    )


def test_the_result_is_bounded_and_the_kit_takes_it() -> None:
    long = [sample(n, f"red heron {n} " + "x" * 5000) for n in range(30)]
    site = ToolSite(Path(), long, CTX.model)
    config = NeighboursConfig(labels=True, characters=900)
    result = check_tool(Neighbours, config, site, {"k": 20}, long[0])
    assert len(result.text) < 20_000
    assert len(result.data) == 20  # type: ignore[arg-type]
