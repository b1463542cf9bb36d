"""Exports of runs without tokens, and of runs with tokens but without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nfilter.store.tokens import read_tokens
from tests.command_line import call as cli

ROWS = "".join(
    json.dumps({"question": question, "answer": answer}) + "\n"
    for question, answer in (
        ("What is a heron?", "A wading bird with long legs."),
        ("What is an otter?", "..."),
        ("What is a \u00e9clair?", "A pastry that is filled with cream."),
    )
)
RULES = "name: rules\nsource: {use: jsonl, path: rows.jsonl}\nsamples:\n  - {use: entp.purge}\n"
TOKENS = """name: masked
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: rows.jsonl}
tokens:
  - {use: tokens.random, k: 0.5}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    for name, text in (("rules", RULES), ("masked", TOKENS)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        code, _, err = cli("run", str(folder / f"{name}.yaml"), "--out", str(folder / name))
        assert code == 0, err
    return folder


def export_rows(run: Path, name: str, out: Path) -> tuple[list[Any], str]:
    code, message, err = cli("export", str(run), "--format", name, "--out", str(out))
    assert code == 0, err
    lines = (out / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], message


CONVERSATIONS = [
    [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    for question, answer in (
        ("What is a heron?", "A wading bird with long legs."),
        ("What is a \u00e9clair?", "A pastry that is filled with cream."),
    )
]


@pytest.mark.parametrize("name", ["messages", "trl", "axolotl", "llamafactory", "swift"])
def test_run_without_tokens_is_exported_as_conversations(
    home: Path, tmp_path: Path, name: str
) -> None:
    rows, message = export_rows(home / "rules", name, tmp_path / "x")
    assert [row["messages"] for row in rows] == CONVERSATIONS
    assert "train.jsonl: 2 conversations" in message
    assert not (tmp_path / "x" / "tokenizer_digest.json").exists()
    if name == "messages":
        kept = (home / "rules" / "cleaned.jsonl").read_text(encoding="utf-8").splitlines()
        assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in kept]
        assert [row["weight"] for row in rows] == [1.0, 1.0]


@pytest.mark.parametrize("recipe", [RULES, TOKENS])
def test_run_without_kept_rows_reports_that_nothing_is_exported(
    tmp_path: Path, recipe: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS.splitlines(keepends=True)[1], encoding="utf-8")
    text = recipe if recipe == RULES else recipe.replace("k: 0.5", "k: 0")
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    run = tmp_path / "run"
    assert cli("run", str(tmp_path / "r.yaml"), "--out", str(run))[0] in (0, 6)
    code, message, err = cli("export", str(run), "--format", "trl", "--out", str(tmp_path / "x"))
    assert (code, message) == (6, "")
    assert "no row is left to export; dropped.jsonl" in err
    assert not (tmp_path / "x").exists()


def test_format_that_needs_tokens_names_the_formats_that_do_not(home: Path, tmp_path: Path) -> None:
    code, _, err = cli(
        "export", str(home / "rules"), "--format", "spans", "--out", str(tmp_path / "x")
    )
    assert code == 7
    assert "has no tokens, and the format spans needs them; add a section tokens:" in err
    named = err.split("--format ")[1].strip().split(" or ")
    assert named == ["axolotl", "llamafactory", "messages", "swift", "trl", "trl_dpo"]
    for name in named:
        export_rows(home / "rules", name, tmp_path / name)


def test_tokens_are_masked_and_exported_without_training(home: Path, tmp_path: Path) -> None:
    samples, reasons = read_tokens(home / "masked" / "tokens")
    assert reasons == ["tokens.random"]
    rows, message = export_rows(home / "masked", "trl", tmp_path / "x")
    weights = [sample.weights for sample in samples if sample.weights.any()]
    assert [[label != -100 for label in row["labels"]] for row in rows] == [
        (each != 0).tolist() for each in weights
    ]
    masked = sum(
        int((sample.response & (sample.weights == 0)).sum())
        for sample in samples
        if sample.weights.any()
    )
    assert masked > 0
    assert "rows of input_ids and labels" in message
    assert not (home / "masked" / "adapters").exists()
    assert "arms" not in json.loads((home / "masked" / "metrics.json").read_text())
    _, message = export_rows(home / "masked", "messages", tmp_path / "y")
    assert f"{masked} response tokens are masked in this run" in message


def test_tokens_of_an_earlier_recipe_are_not_exported(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "masked", tmp_path / "run")
    plain = tmp_path / "plain.yaml"
    plain.write_text(
        TOKENS.split("tokens:", maxsplit=1)[0].replace("rows.jsonl", str(home / "rows.jsonl"))
    )
    assert cli("run", str(plain), "--out", str(tmp_path / "run"))[0] == 0
    rows, _ = export_rows(tmp_path / "run", "trl", tmp_path / "x")
    assert [set(row) for row in rows] == [{"messages"}] * 3


@pytest.mark.types("or leave arms out: tokens:")
def test_arm_needs_a_trainer(home: Path) -> None:
    (home / "arm.yaml").write_text(TOKENS + "arms: [cleaned]\n")
    code, _, err = cli("check", str(home / "arm.yaml"))
    assert code == 2
    assert (
        "arm.yaml:6: arms: arm 'cleaned' is trained; add train: {use: hf.lora, model: student}, or leave arms out: "
        "tokens: runs without training" in err
    )
    with_trainer = TOKENS + "arms: [cleaned]\ntrain: {use: hf.lora, model: student}\n"
    for text in (with_trainer, TOKENS):
        (home / "arm.yaml").write_text(text)
        assert cli("check", str(home / "arm.yaml"))[0] == 0


@pytest.mark.parametrize(
    ("stage", "more", "error", "fixed"),
    [
        (
            "{use: tokens.excess_loss, warmup: 0.5}",
            "",
            "tokens[0]: tokens.excess_loss trains a model with these settings; add train: {use: hf.lora, model: student}",
            "train: {use: hf.lora, model: student}\n",
        ),
        (
            "{use: tokens.self_evolve}",
            "train: {use: adopt, from: tokens.self_evolve}\n",
            "add with: {use: hf.lora, model: student} under train:",
            "train: {use: adopt, from: tokens.self_evolve, with: {use: hf.lora, model: student}}\n",
        ),
    ],
)
def test_stage_that_trains_needs_a_trainer(
    home: Path, stage: str, more: str, error: str, fixed: str
) -> None:
    text = TOKENS.replace("{use: tokens.random, k: 0.5}", stage)
    (home / "trains.yaml").write_text(text + more)
    code, _, err = cli("check", str(home / "trains.yaml"))
    assert code == 2
    assert error in err
    (home / "trains.yaml").write_text(text + fixed)
    assert cli("check", str(home / "trains.yaml"))[0] == 0
