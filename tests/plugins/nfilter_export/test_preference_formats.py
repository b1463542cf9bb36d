"""Preference pairs for TRL: the rows, their weights, and DPOTrainer's own reading of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter import Exported, FineTune, Message, Sample, ToolCall, Verdict
from nfilter_export.conversation_formats import (
    LlamaFactory,
    LlamaFactoryConfig,
    Messages,
    NoSettings,
    Swift,
)
from nfilter_export.preference_formats import TrlDpo
from nfilter_export.token_formats import Axolotl, Trl


def pair(number: int, **more: Any) -> Sample:
    messages = (
        Message("system", "Be brief."),
        Message("user", f"{number}+1?"),
        Message("assistant", str(number + 1)),
    )
    rejected = Message("assistant", str(number))
    return Sample(f"p{number}", messages, **{"rejected": rejected, **more})


def run_of(*samples: Sample, tune: FineTune | None = None) -> Exported:
    return Exported(samples, (), (), encoded=False, fine_tune=tune)


def exported(run: Exported, out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    lines = TrlDpo(NoSettings()).export(run, out)
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()], lines


def test_a_row_is_a_prompt_and_two_responses_as_turns(tmp_path: Path) -> None:
    rows, said = exported(run_of(pair(1), pair(2).swap("flipped")), tmp_path)
    system = {"role": "system", "content": "Be brief."}
    assert rows == [
        {
            "prompt": [system, {"role": "user", "content": "1+1?"}],
            "chosen": [{"role": "assistant", "content": "2"}],
            "rejected": [{"role": "assistant", "content": "1"}],
        },
        {
            "prompt": [system, {"role": "user", "content": "2+1?"}],
            "chosen": [{"role": "assistant", "content": "2"}],
            "rejected": [{"role": "assistant", "content": "3"}],
        },
    ]
    assert said == ["train.jsonl: 2 preference pairs"]


def test_weights_are_a_column_of_all_rows_if_any_row_has_one(tmp_path: Path) -> None:
    rows, said = exported(run_of(pair(1), pair(2, weight=0.25)), tmp_path)
    assert [row["weight"] for row in rows] == [1.0, 0.25]
    assert any("1 rows have a weight other than 1, in the column weight" in line for line in said)


def test_a_card_says_how_many_pairs_may_be_flipped(tmp_path: Path) -> None:
    def judged(number: int, *interval: float) -> Sample:
        verdict = Verdict(True, 0.7, interval=interval or None)  # type: ignore[arg-type]
        return pair(number, notes={"check": verdict.to_json()})

    samples = (judged(1, 0.0, 1.0), judged(2, 0.4, 0.6), judged(3, 0.6, 0.9), judged(4), pair(5))
    _, said = exported(run_of(*samples), tmp_path)
    fact = "2 of 5 pairs may be flipped: by the verdict, the probability of it can be below and above 0.5"
    assert said[1] == f"README.md: {fact}"
    card = (tmp_path / "README.md").read_text()
    assert f"{fact}." in card
    assert card.startswith("---\ntags:")


def test_rows_with_one_response_are_left_out_and_counted(tmp_path: Path) -> None:
    rows, said = exported(run_of(pair(1), pair(2, rejected=None)), tmp_path)
    assert len(rows) == 1
    assert "1 rows are left out: they have one response" in said


def test_tools_and_calls_are_carried(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    call = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1}'),))
    rows, _ = exported(run_of(pair(1, tools=(tool,), rejected=call)), tmp_path)
    assert rows[0]["tools"] == [tool]
    assert rows[0]["rejected"][0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_the_configuration_has_the_model_and_its_lora_and_no_rate(tmp_path: Path) -> None:
    import yaml

    tune = FineTune("org/name", {"rank": 8, "alpha": 16.0, "lr": 0.1}, max_length=512, seed=3)
    _, said = exported(run_of(pair(1), tune=tune), tmp_path)
    config = yaml.safe_load((tmp_path / "train.yaml").read_text())
    assert config["model_name_or_path"] == "org/name"
    assert (config["lora_r"], config["lora_alpha"], config["max_length"]) == (8, 16, 512)
    assert "learning_rate" not in config
    assert any("trl dpo --config train.yaml" in line for line in said)


@pytest.mark.parametrize(
    "exporter",
    [Messages(NoSettings()), Trl(NoSettings()), Axolotl(NoSettings()), Swift(NoSettings()), LlamaFactory(LlamaFactoryConfig())],
    ids=lambda exporter: exporter.name,
)  # fmt: skip
def test_formats_of_one_response_say_what_they_lose(exporter: Any, tmp_path: Path) -> None:
    said = exporter.export(run_of(pair(1), pair(2)), tmp_path)
    assert sum("2 rows are preference pairs" in line and "trl_dpo" in line for line in said) == 1


@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_dpo_trainer_reads_the_rows_and_its_loss_begins_at_log_2(tmp_path: Path) -> None:
    """At the first step the policy is the reference, so that the loss is -log(sigmoid(0)) = log 2 (DPO, Eq. 7)."""
    import math

    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from nfilter_tiny import MODEL_DIR

    exported(run_of(*(pair(n, weight=0.5) for n in range(1, 5))), tmp_path)
    rows = load_dataset(
        "json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    settings = DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to=[], logging_steps=1,
        bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        args=settings,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [pytest.approx(math.log(2), abs=1e-3)]
