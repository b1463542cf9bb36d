"""Replies become views and verdicts: reasoning, letters, numbers and labels, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

RECIPE = """\
name: replies
answer: {kind}
models: {{m: {{use: litellm, model: x, api_base: "{url}", logprobs: false}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: m, into: base, max_tokens: 4}}
  - {{use: robustft.check, views: [base]}}
arms: []
"""
OPTIONS = ["red", "green", "blue", "yellow"]
# The reply, the label, the view's answer, whether the label is flagged.
NUMBERS = [
    ("\\boxed{\\frac{3}{4}}", "The result is $\\boxed{-\\frac{3}{4}}$", "0.75", True),
    ("\\boxed{-\\dfrac{1}{2}}", "-0.5", "-0.5", False),
    ("- 5 is not it.\n\\boxed{- 5}", "-5", None, True),  # cut at four words
    ("-½", "-0.5", "-0.5", False),
    ("\\boxed{4}", "\\boxed{4\\sqrt{2}}", "4", True),
    ("\\boxed{(1,2)}", "\\boxed{(1,5)}", None, True),
    ("5?\n</think>\n\n4", "4", "4", False),
    ("<think>5?</think> 4", "<think>or 5</think>4", "4", False),
    ("<think>5 6 7 8 9", "5", None, True),
    (Completion("4", reasoning="is it 5"), "4", "4", False),
]
WORDS = [
    ("लड़की", "लड़का", "लड़की", True), ("ही", "हाँ", "ही", True), ("ดู", "ดี", "ดู", True), ("நன்றி", "நன்று", "நன்றி", True),
    ("∞", "😀", "∞", True), ("😀", "😀", "😀", False), ("<think>hm</think> positive", "positive", "positive", False),
]  # fmt: skip
LETTERS = [
    ("Answer: Option C", "C", "C", False), ("is Option C.", "C", "C", False), ("ANSWER: A, B and", "A", None, True),
    ('{"answer": "C"}', "C", "C", False), ("<think>B? no.</think>\n\nC", "C", "C", False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "cases"), [("number", NUMBERS), ("exact", WORDS), ("choice", LETTERS)]
)
def test_replies_become_views_and_verdicts(
    tmp_path: Path, command: Callable[..., Any], kind: str, cases: Sequence[Any]
) -> None:
    replies = {f"Item {n}.": case[0] for n, case in enumerate(cases)}

    def answer(messages: Sequence[Mapping[str, Any]]) -> Any:
        asked = str(messages[-1]["content"])
        return next(reply for item, reply in replies.items() if item in asked)

    rows = [
        {"question": f"Item {n}.", "options": OPTIONS, "answer": case[1]}
        if kind == "choice"
        else {"prompt": f"Item {n}.", "response": case[1]}
        for n, case in enumerate(cases)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(Script(answer=answer)) as server:
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url, kind=kind))
        done = command("run", "r.yaml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (chunk,) = (tmp_path / "out" / "02-robustft.check").glob("chunk-*.jsonl")
    notes = [json.loads(line)["notes"] for line in chunk.read_text().splitlines()]
    assert [(note["base"]["answer"], note["check"]["flagged"]) for note in notes] == [
        case[2:] for case in cases
    ]
    if kind != "number":
        return
    assert [note["base"]["reasoning"] for note in notes[-4:]] == ["5?", "5?", "5 6 7 8", "is it 5"]
    assert notes[-2]["base"]["failure"].startswith(
        "too_long: the thought before the answer was cut off"
    )
    assert notes[-2]["base"]["failure"].endswith("set a higher max_tokens")
    key = json.loads(chunk.read_text().splitlines()[-1])["id"]
    explained = command("explain", "out", key, cwd=tmp_path)
    assert "is it 5" in explained.stdout, explained.stderr
