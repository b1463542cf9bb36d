"""The bar says how far the run is: stage n of N, the token stage, the arm; and in training the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nfilter.engine.step_position import step_position
from nfilter.recipe.model import load
from nfilter.registry.loading import load as load_plugins


@pytest.mark.parametrize(
    ("label", "place"),
    [
        ("01-robustft.answer", "stage 1 of 2"),
        ("02-robustft.check", "stage 2 of 2"),
        ("03-encode", ""),
        ("04-tokens.excess_loss", "token stage 1 of 2"),
        ("04-tokens.excess_loss.train", "token stage 1 of 2"),
        ("05-tokens.keep_top", "token stage 2 of 2"),
        ("06-tokens.keep_top", ""),
        ("train.raw", "arm 2 of 3 (raw)"),
        ("evaluate.cleaned", "arm 3 of 3 (cleaned)"),
        ("metrics", ""),
        ("source", ""),
        ("train.truth", ""),
    ],
)
def test_every_label_has_its_place(tmp_path: Path, label: str, place: str) -> None:
    (tmp_path / "r.yaml").write_text(
        "answer: number\nmodels: {student: {use: hf, model: tiny}}\nsource: {use: tiny}\n"
        "samples: [{use: robustft.answer, llm: student, into: base}, {use: robustft.check, views: [base]}]\n"
        "arms: [vanilla, raw, cleaned]\n"
        "tokens: [{use: tokens.excess_loss, reference: warmup, into: excess}, {use: tokens.keep_top, by: excess, k: 0.6}]\n"
        "train: {use: hf.lora, model: student}\nevaluate: {source: {use: tiny, split: test}}\n"
    )
    assert step_position(load(tmp_path / "r.yaml", load_plugins(block=())), label) == place


def test_a_run_shows_them(kit: Any, stage: Any) -> None:
    shown: list[str] = []
    bar = kit.reporter.progress

    def progress(total: int | None, text: str, note: Any = None) -> Any:
        shown.append(text)
        return bar(total, text, note)

    kit.reporter.progress = progress
    kit.run([stage("extra.a"), stage("extra.b")])
    assert shown[:2] == ["stage 1 of 2: 01-extra.a", "stage 2 of 2: 02-extra.b"]
