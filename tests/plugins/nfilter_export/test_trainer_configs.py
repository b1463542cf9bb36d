"""train.yaml of the export formats: the values of the run under the names of other trainers, read by those trainers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter import Exported, FineTune, Message, Sample
from nfilter.cli import entry
from nfilter.engine.fine_tune import fine_tune_of
from nfilter.registry.loading import load
from nfilter_export import trainer_configs
from nfilter_export.conversation_formats import NoSettings, Swift

SETTINGS: dict[str, Any] = {
    "rank": 16, "alpha": 32.0, "dropout": 0.1, "target_modules": None, "lr": 3e-4, "schedule": "cosine", "warmup": 0.03,
    "epochs": 3, "max_steps": None, "batch_size": 24, "weight_decay": 0.01, "max_grad_norm": 1.0, "gradient_checkpointing": True,
}  # fmt: skip
TUNE = FineTune("org/name", SETTINGS, 2048, 7)
MAKERS: dict[str, Callable[[FineTune, int], dict[str, Any]]] = {
    "trl": lambda tune, rows: trainer_configs.trl(tune, rows, encoded=True),
    "axolotl": lambda tune, rows: trainer_configs.axolotl(tune, rows, encoded=True),
    "llamafactory": lambda tune, rows: trainer_configs.llamafactory(tune, rows, "nfilter"),
    "swift": lambda tune, rows: trainer_configs.swift(tune, rows, fractions=False),
}
NAMES = {
    "trl": ("model_name_or_path", "max_length", "per_device_train_batch_size", "num_train_epochs"),
    "axolotl": ("base_model", "sequence_len", "micro_batch_size", "num_epochs"),
    "llamafactory": ("model_name_or_path", "cutoff_len", "per_device_train_batch_size", "num_train_epochs"),
    "swift": ("model", "max_length", "per_device_train_batch_size", "num_train_epochs"),
}  # fmt: skip


@pytest.mark.parametrize("trainer", MAKERS)
def test_a_step_has_the_rows_of_the_run(trainer: str) -> None:
    made = MAKERS[trainer](TUNE, 1000)
    model, length, each, epochs = (made[name] for name in NAMES[trainer])
    assert (model, length, epochs) == ("org/name", 2048, 3)
    assert each * made["gradient_accumulation_steps"] == 24
    steps = math.ceil(1000 / 24) * 3
    assert made["warmup_steps"] == math.ceil(0.03 * steps) == 4
    assert (made["learning_rate"], made["weight_decay"], made["seed"]) == (3e-4, 0.01, 7)
    assert (made["lora_alpha"], type(made["lora_alpha"])) == (32, int)
    assert "max_steps" not in made


@pytest.mark.parametrize("trainer", MAKERS)
def test_auto_is_left_to_the_other_trainer(trainer: str) -> None:
    made = MAKERS[trainer](
        FineTune("m", {**SETTINGS, "batch_size": "auto", "lr": "auto", "epochs": "auto"}), 10
    )
    assert "auto" not in made.values()
    assert "warmup_steps" not in made
    assert NAMES[trainer][2] not in made


@pytest.mark.parametrize(
    ("targets", "trl", "axolotl", "llamafactory"),
    [
        ("all-linear", "all-linear", {"lora_target_linear": True}, "all"),
        (
            ["q_proj", "up"],
            ["q_proj", "up"],
            {"lora_target_modules": ["q_proj", "up"]},
            "q_proj,up",
        ),
    ],
)
def test_layers_have_each_trainers_form(
    targets: Any, trl: Any, axolotl: dict[str, Any], llamafactory: str
) -> None:
    tune = FineTune("m", {**SETTINGS, "target_modules": targets})
    assert MAKERS["trl"](tune, 10)["lora_target_modules"] == trl
    assert axolotl.items() <= MAKERS["axolotl"](tune, 10).items()
    assert MAKERS["llamafactory"](tune, 10)["lora_target"] == llamafactory


def test_weights_become_the_loss_scale_of_a_turn(tmp_path: Path) -> None:
    turns = (
        Message("user", "a"), Message("assistant", "b", weight=0.0), Message("user", "c"), Message("assistant", "d"),
    )  # fmt: skip
    plain = Sample("2", (Message("user", "e"), Message("assistant", "f")))
    samples = [Sample("1", turns, weight=0.25), plain]
    said = Swift(NoSettings()).export(
        Exported(samples, (), (), encoded=False, fine_tune=TUNE), tmp_path
    )
    first, second = map(yaml.safe_load, (tmp_path / "train.jsonl").read_text().splitlines())
    assert [turn.get("loss_scale") for turn in first["messages"]] == [None, None, None, 0.25]
    assert [turn.get("loss") for turn in first["messages"]] == [None, False, None, None]
    assert second == {
        "messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]
    }
    config = yaml.safe_load((tmp_path / "train.yaml").read_text())
    assert config["is_binary_loss_scale"] is False
    assert any("swift sft train.yaml" in line for line in said)


def test_a_loss_that_is_not_carried_over_is_named() -> None:
    assert trainer_configs.left_out(TUNE) == []
    (line,) = trainer_configs.left_out(FineTune("m", {"loss": {"use": "dft"}}))
    assert "(dft) is not carried over" in line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "recipe.yaml").write_text(
        "name: configs\nanswer: exact\nmodels: {student: {use: hf, model: tiny}, other: student}\n"
        "source: {use: tiny, split: train, domain: say, rows: 8}\narms: [cleaned]\n"
        "encode: {model: student, max_length: 64}\n"
        "train: {use: hf.lora, model: other, rank: 4, max_steps: 1}\n"
    )
    assert entry(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def test_the_run_says_what_was_chosen(finished: Path) -> None:
    models = load().models
    found = fine_tune_of(finished, models)
    assert found is not None
    assert found.model == str(models["tiny"].resolve())
    assert (found.max_length, found.seed, found.settings["rank"]) == (64, 0, 4)
    assert "auto" not in [found.settings[name] for name in ("batch_size", "epochs", "lr")]


def trl_reads(folder: Path) -> Any:
    trl = pytest.importorskip("trl")
    parser = trl.TrlParser(
        (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig)
    )
    return parser.parse_args_and_config(
        ["--config", str(folder / "train.yaml"), "--bf16", "false", "--use_cpu", "true"],
        fail_with_unknown_args=True,
    )


# The library's own defaults use a name that transformers retires.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing.:FutureWarning")
def test_trl_reads_its_file(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "trl"
    assert entry(["export", str(finished), "--format", "trl", "--out", str(out)]) == 0
    _, training, model, data = trl_reads(out)
    assert (model.lora_r, model.lora_target_modules[0]) == (4, "q_proj")
    assert (training.max_length, training.max_steps, training.report_to) == (64, 1, [])
    assert data.datasets[0].data_files == "train.jsonl"


@pytest.mark.types("start the training in this folder with: ")
@pytest.mark.slow
def test_trl_trains_from_the_folder(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "trl"
    assert entry(["export", str(finished), "--format", "trl", "--out", str(out)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "trl.scripts.sft", "--config", "train.yaml", "--bf16", "false", "--use_cpu", "true"],
        cwd=out, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_axolotl_reads_its_file() -> None:
    config = pytest.importorskip("axolotl.utils.schemas.config")
    made = MAKERS["axolotl"](TUNE, 1000)
    assert set(made) <= set(config.AxolotlInputConfig.model_fields)
    read = config.AxolotlInputConfig(**made)
    assert (read.lora_r, read.datasets[0].type) == (16, "input_output")
