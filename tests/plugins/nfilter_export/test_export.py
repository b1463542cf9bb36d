"""Token masks in the formats of other trainers: read back, and compared with TRL's own loss."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter.store.tokens import read_tokens
from tests.command_line import call as cli

RECIPE = """
name: exported
seed: 0
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: tiny, split: train, domain: say, rows: 16}
arms: [cleaned]
encode: {model: student, max_length: 64}
tokens:
  - {use: tokens.random, k: 0.6}
train: {use: hf.lora, model: student, epochs: 1, max_steps: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    (folder / "recipe.yaml").write_text(RECIPE)
    code, _, err = cli("run", str(folder / "recipe.yaml"), "--out", str(folder / "run"))
    assert code == 0, err
    return folder / "run"


@pytest.fixture
def export_rows(run: Path, tmp_path: Path) -> Any:
    def write(name: str, *more: str) -> tuple[list[Any], str]:
        out = tmp_path / name
        code, message, err = cli("export", str(run), "--format", name, "--out", str(out), *more)
        assert code == 0, err
        lines = (out / "train.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines], message

    return write


def samples_with_weights(run: Path) -> list[Any]:
    samples, _ = read_tokens(run / "tokens")
    return [sample for sample in samples if sample.weights.any()]


def test_trl_labels_are_the_ids_with_a_weight(run: Path, export_rows: Any) -> None:
    rows, message = export_rows("trl")
    for row, sample in zip(rows, samples_with_weights(run), strict=True):
        assert row["input_ids"] == sample.ids.tolist()
        assert [label != -100 for label in row["labels"]] == (sample.weights != 0).tolist()
        assert all(
            label in (-100, number)
            for label, number in zip(row["labels"], row["input_ids"], strict=True)
        )
    masked = sum(label == -100 for row in rows for label in row["labels"])
    assert 0 < masked < sum(len(row["labels"]) for row in rows)
    assert f"train.jsonl: {len(rows)} rows" in message


@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_trl_trainer_computes_the_same_loss(run: Path, export_rows: Any, tmp_path: Path) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from nfilter import Site
    from nfilter_hf.backend import HFBackend
    from nfilter_hf.config import HFConfig
    from nfilter_tiny import MODEL_DIR

    rows, _ = export_rows("trl")
    settings = SFTConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=len(rows), report_to=[], use_cpu=True,
        max_length=64, bf16=False, fp16=False, gradient_checkpointing=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )  # fmt: skip
    model.eval()
    (batch,) = list(trainer.get_train_dataloader())
    with torch.no_grad():
        theirs = float(trainer.compute_loss(model, batch))
    backend = HFBackend(HFConfig(model=str(MODEL_DIR)), Site(MODEL_DIR))
    samples = samples_with_weights(run)
    losses = [loss[s.weights != 0] for s, loss in zip(samples, backend.score(samples), strict=True)]
    backend.close()
    assert theirs == pytest.approx(float(np.concatenate(losses).mean()), rel=1e-5)


def test_axolotl_segments_cover_the_text_and_separate_masked_parts(
    run: Path, export_rows: Any
) -> None:
    rows, _ = export_rows("axolotl")
    for row, sample in zip(rows, samples_with_weights(run), strict=True):
        assert "".join(segment["text"] for segment in row["segments"]) == sample.text
        labels = [segment["label"] for segment in row["segments"]]
        assert all(a != b for a, b in itertools.pairwise(labels))
        learnt = "".join(segment["text"] for segment in row["segments"] if segment["label"])
        spans = sample.spans[sample.weights != 0].tolist()
        assert learnt == "".join(sample.text[start:end] for start, end in spans)


def test_spans_contain_all_token_fields(run: Path, export_rows: Any) -> None:
    rows, _ = export_rows("spans")
    for row, sample in zip(rows, samples_with_weights(run), strict=True):
        assert (row["id"], row["text"]) == (sample.id, sample.text)
        where = np.flatnonzero(sample.response)
        assert [token["id"] for token in row["tokens"]] == sample.ids[where].tolist()
        assert [token["weight"] for token in row["tokens"]] == sample.weights[where].tolist()
        for token in row["tokens"]:
            assert token["reasons"] == ([] if token["weight"] else ["tokens.random"])
            assert 0 <= token["start"] <= token["end"] <= len(row["text"])


@pytest.mark.parametrize("name", ["trl", "spans"])
def test_tokenizer_digest_is_exported(
    name: str, run: Path, export_rows: Any, tmp_path: Path
) -> None:
    from nfilter import Site
    from nfilter_hf.backend import HFBackend
    from nfilter_hf.config import HFConfig
    from nfilter_tiny import MODEL_DIR

    _, message = export_rows(name)
    found = json.loads((tmp_path / name / "tokenizer_digest.json").read_text(encoding="utf-8"))
    digest = HFBackend(HFConfig(model=str(MODEL_DIR)), Site(MODEL_DIR)).tokenizer_digest()
    assert found == {"tokenizer": digest.tokenizer, "template": digest.template}
    assert found == json.loads((run / "tokens" / "index.json").read_text())["tokenizer"]
    assert "tokenizer_digest.json: SHA-256" in message


def test_unknown_tokenizer_is_reported(tmp_path: Path) -> None:
    from nfilter import Exported
    from nfilter_export.token_formats import NoSettings, Spans

    message = Spans(NoSettings()).export(Exported([], [], ()), tmp_path)
    found = json.loads((tmp_path / "tokenizer_digest.json").read_text(encoding="utf-8"))
    assert found == {"tokenizer": None, "template": None}
    assert "tokenizer_digest.json: null" in message[1]


def test_llama_factory_reports_the_lost_token_mask(
    run: Path, export_rows: Any, tmp_path: Path
) -> None:
    rows, message = export_rows("llamafactory", "--set", "dataset=mine")
    cleaned = [json.loads(line) for line in (run / "cleaned.jsonl").read_text().splitlines()]
    assert [[m["content"] for m in row["messages"]] for row in rows] == [
        [row["question"], row["answer"]] for row in cleaned
    ]
    info = json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text())
    assert info["mine"]["file_name"] == "train.jsonl"
    assert "response tokens are masked in this run" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format", "trll", "--out", "x"], "unknown exporter 'trll'; did you mean 'trl'?"),
        (["--format", "trl", "--out", "."], "exists already; name a new folder"),
        (["--format", "trl", "--out", "x", "--set", "a=b"], "--set a: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_invalid_export_arguments_are_reported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("export", str(run), *arguments)
    assert code != 0
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_folder_and_the_same_command_makes_it(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "kept"
    command = [sys.executable, "-m", "nfilter", "export", str(run), "--format", "trl", "--out", str(out)]  # fmt: skip
    armed = {**os.environ, "NFILTER_FAILPOINT": "publish.synced:1"}
    ended = subprocess.run(command, env=armed, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not out.exists()
    assert cli(*command[3:])[0] == 0
    assert [each.name for each in out.parent.iterdir()] == ["kept"]
    written = sorted(each.name for each in out.iterdir())
    assert written == ["tokenizer_digest.json", "train.jsonl", "train.yaml"]


def test_an_export_to_a_place_that_cannot_be_written_says_so(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    code, _, err = cli("export", str(run), "--format", "trl", "--out", str(tmp_path / "file" / "x"))
    assert code == 7
    assert "x: cannot be written (" in err
    assert (
        "file is a file, and a folder is needed: choose another place, or move it away, and run the same"
        in err
    )


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("tokens/index.json", "tokens/index.json: is missing; run the command that made it again"),
        ("00-source/done.json", "the run has not ended"),
    ],
)
def test_unfinished_run_is_not_exported(
    run: Path, tmp_path: Path, missing: str, expected: str
) -> None:
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / missing).unlink()
    out = tmp_path / "x"
    code, _, err = cli("export", str(tmp_path / "half"), "--format", "trl", "--out", str(out))
    assert code == 7
    assert expected in err
    assert not out.exists()
