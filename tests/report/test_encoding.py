"""What encoding did, in words: ``nfilter lint`` end to end, and one line on the closing screen where tokens are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter.cli import entry
from nfilter.report.encoding import closing

RECIPE = """
name: lint
seed: 0
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: tiny, split: train, domain: say, rows: 40}
samples: [{use: robustft.answer, llm: student, into: base}]
encode: {model: student, max_length: 31}
train: {use: hf.lora, model: student}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "r.yaml"


def test_lint_prints_what_training_would_see(
    recipe: Path, capsys: pytest.CaptureFixture[str], golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter_hf import backend

    monkeypatch.setattr(backend, "load", None)  # no weights
    monkeypatch.setenv("COLUMNS", "80")
    assert entry(["lint", str(recipe)]) == 0
    golden("report/lint.txt", capsys.readouterr().out)
    assert entry(["lint", str(recipe), "--set", "encode.max_length=64", "--limit", "7", "--json"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] == []
    assert found["figures"]["rows"] == 7
    assert sorted(path.name for path in recipe.parent.iterdir()) == ["r.yaml"]


def test_lint_ends_as_a_run_would_where_nothing_is_left(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry(["lint", str(recipe), "--set", "encode.max_length=3"]) == 6
    said = capsys.readouterr().err
    assert "none of the 40 rows has a token in the loss; the first: no token of the response" in said  # fmt: skip
    assert "encode.max_length is 3" in said


def figures(**more: Any) -> dict[str, Any]:
    clean: dict[str, Any] = {
        "rows": 800, "max_length": 64,
        "truncated": {"rows": 0, "response_tokens": 0}, "all_masked": {"truncated": 0, "template": 0, "no_answer": 0},
        "mask": {"prompt": 0, "rewritten": 0, "opened": 0, "followed": 0, "unended": 0},
    }  # fmt: skip
    return {**clean, **more}


def test_the_closing_screen_has_a_line_where_tokens_are_lost() -> None:
    cut = figures(
        truncated={"rows": 12, "response_tokens": 1300},
        all_masked={"truncated": 2, "template": 1, "no_answer": 0},
    )
    assert closing({"encode": {"raw": figures(), "cleaned": cut}}) == (
        "1,300 response tokens of 12 rows truncated; 3 empty responses"
    )
    odd = figures(mask={"rewritten": 0, "opened": 5, "followed": 0, "unended": 1})
    assert closing({"encode": {"raw": odd}}) == (
        "6 responses with a wrong response mask (see run.log)"
    )
    assert closing({"encode": {"cleaned": figures()}}) is None
    assert closing({"encode": {}}) is closing({}) is None
