"""A base recipe of a page, plans over it, and cells with made-up figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.evidence.cells import Cells
from benchmarks.evidence.lines import rule, rules
from benchmarks.evidence.plan import Cell, Plan, Scope, plan
from benchmarks.real_evidence import data as labelled
from benchmarks.real_tokens import data as texts
from tests.benchmarks import news_sets, text_sets

QUESTIONS = 40

BASE: dict[str, Any] = {
    "seed": 0,
    "answer": "number",
    "models": {"student": {"use": "hf", "model": "tiny"}, "expert": "student", "encoder": "student"},
    "source": {"use": "tiny", "split": "train", "rows": 20, "noise": 0.5},
    "samples": [
        {"use": "robustft.answer", "llm": "expert", "prompt": "tiny/answer", "max_tokens": 8, "into": "base"},
        {"use": "robustft.reason", "llm": "expert", "prompt": "tiny/reason", "rounds": 0, "into": "reasoning"},
        {"use": "robustft.check", "views": ["base", "reasoning"], "vote": "probability"},
        {"use": "robustft.relabel", "llm": "expert", "encoder": "encoder", "prompt": "tiny/relabel", "k": 3},
        {"use": "robustft.review", "llm": "expert", "prompt": "tiny/review", "views": ["context", "reasoning"]},
        {"use": "robustft.select", "by": "context", "keep": 0.5},
    ],
    "arms": ["vanilla", "raw", "cleaned", "truth"],
    "train": {"use": "hf.lora", "model": "student"},
    "evaluate": {"limit": QUESTIONS, "source": {"use": "tiny", "split": "test"}},
}  # fmt: skip

PUBLISHED: dict[str, Any] = {
    "samples": [
        {"use": "robustft.answer", "llm": "model"},
        {"use": "robustft.reason", "llm": "model", "preset": "official"},
        {"use": "robustft.check", "views": ["base", "reasoning"], "preset": "official"},
        {"use": "robustft.relabel", "llm": "model", "encoder": "other", "k": 3},
        {"use": "robustft.review", "llm": "model", "preset": "official"},
        {"use": "robustft.select", "by": "context", "preset": "official"},
    ]
}


@pytest.fixture
def planned() -> Callable[..., Plan]:
    def make(**scope: Any) -> Plan:
        return plan(Scope(**scope), BASE, PUBLISHED)

    return make


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(tmp_path / "evidence", "these inputs")


@pytest.fixture
def fakes() -> SimpleNamespace:
    """``trained`` and ``detected``: figures of a cell as a run would leave them."""
    return SimpleNamespace(trained=trained, detected=detected, questions=QUESTIONS)


def trained(cell: Cell, right: int, *, shift: int = 0) -> dict[str, Any]:
    """Figures of a cell whose model answers ``right`` of the questions, those from ``shift`` on."""
    answers = {f"q{i:02d}": (i - shift) % QUESTIONS < right for i in range(QUESTIONS)}
    return {
        "cell": cell.to_json(),
        "recipe": "r",
        "seconds": 2.0,
        "commit": "abc",
        "trained_in": cell.key if cell.kind == "train" else None,
        "device": "cpu",
        "samples": {"read": 20, "kept": 15},
        "right": answers,
        "accuracy": right / QUESTIONS,
        "unanswered": 0.0,
        "training": {"samples": 15, "steps": 30} if cell.kind == "train" else None,
        "labels": {"right": 0.75, "n": 15},
        "calls": {"calls_per_sample": 2.5, "tokens_per_sample": 60.0, "by_stage": {}},
    }


def detected(cell: Cell, scale: float = 1.0) -> dict[str, Any]:
    """Figures of a detection run: a rule's F1 grows with the number of its views."""
    notes: dict[str, Mapping[str, Any]] = {}
    for names, vote in rules():
        f1 = scale * (0.6 + 0.1 * len(names))
        notes[rule(names, vote)] = {
            "note": rule(names, vote), "noise_rate": 0.5, "flagged": 0.5, "precision": f1, "recall": f1, "f1": f1,
            "mcc": f1 - 0.1, "average_precision": f1, "roc_auc": f1, "flag_all": {"f1": 2 / 3},
            "bound": {"f1": 0.9} if vote == "all" else None,
        }  # fmt: skip
    stage = {"calls_per_sample": 1.0, "tokens_per_sample": 10.0}
    return {
        "cell": cell.to_json(),
        "recipe": "r",
        "seconds": 1.0,
        "commit": "abc",
        "detection": {**notes["all(base)"], "by_note": notes},
        "calibration": {name: {"error": 0.05} for name in notes},
        "estimates": {name: {"estimate": 0.48} for name in notes},
        "calls": {
            "calls_per_sample": 2.0,
            "by_stage": {"01-robustft.answer": stage, "02-robustft.reason": {**stage, "tokens_per_sample": 40.0}},
        },
    }  # fmt: skip


@pytest.fixture
def sets(tmp_path: Path) -> list[texts.DataSet]:
    """The data sets of texts."""
    return texts.find(text_sets.make(tmp_path / "given"), text_sets.SIZES)[0]


@pytest.fixture
def one(tmp_path: Path) -> labelled.DataSet:
    """The data set of news."""
    (made,), _ = labelled.find(news_sets.make(tmp_path / "given"))
    return made
