"""What SECURITY.md promises and no other file proves."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from nfilter import Message, Sample
from nfilter.answers import AnswerConfig, build
from nfilter.store.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
KINDS = [
    build(AnswerConfig.model_validate(kind))
    for kind in ("choice", "number", "exact", "spans", {"kind": "text", "judge": "j"})
]


def test_a_run_directory_is_its_owners_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "one")
    with run.held():
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("text", ["", " \n\t", "...", "?!", "---", "Answer:", "Answer: ...", "**Answer:** —", "“”", "\u200b", "___", "{}"])  # fmt: skip
def test_an_empty_answer_or_one_of_punctuation_is_none(kind: object, text: str) -> None:
    sample = Sample("s", (Message("user", "?"),), meta={"options": ["x", "y"]})
    assert kind.parse(text, sample) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["∞", "👍", "7", "x", "是", "π"])
def test_one_sign_may_be_a_whole_answer_in_words(text: str) -> None:
    assert KINDS[-1].parse(text) == text


def test_every_test_that_security_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/.]+)`", text))
    assert len(named) >= 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
