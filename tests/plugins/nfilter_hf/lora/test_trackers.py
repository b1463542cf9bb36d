"""Figures of a training go to trackers of accelerate, and a tracker that is not there is said before a run."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest
from lent_llama import Lender, llama, sample

from nfilter import ModelError
from nfilter.testing import FakeContext
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trackers import tracked
from nfilter_hf.lora.trainer import LoraTrainer


class Kept(accelerate.tracking.GeneralTracker):
    """In mlflow's place: keeps what it is given, and fails at one step."""

    name = "mlflow"
    requires_logging_directory = False
    seen: ClassVar[list[Any]] = []
    fails_at: ClassVar[int | None] = None
    error: ClassVar[type[BaseException]] = OSError
    starts: ClassVar[bool] = True

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.seen.append(("starts", project, options))
        if not self.starts:
            raise OSError("no server")

    @property
    def tracker(self) -> Any:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.seen.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self.fails_at:
            raise self.error("the disk is full")
        self.seen.append((step, values))

    def finish(self) -> None:
        self.seen.append("ends")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setattr(Kept, "seen", [])
    monkeypatch.setattr(Kept, "fails_at", None)
    monkeypatch.setattr(Kept, "error", OSError)
    monkeypatch.setattr(Kept, "starts", True)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "mlflow", Kept)
    monkeypatch.setattr(
        accelerate.tracking,
        "get_available_trackers",
        lambda: [accelerate.tracking.LoggerType("mlflow")],
    )
    # accelerate's own log wants a state that the library makes first.
    monkeypatch.setattr(logging.getLogger("accelerate.tracking"), "disabled", True)
    return Kept


def trained(out: Path, ctx: FakeContext, **settings: Any) -> Any:
    config = {
        "model": "student",
        "rank": 4,
        "dropout": 0.0,
        "lr": 1e-3,
        "batch_size": 8,
        "epochs": 2,
        "warmup": 0,
    }
    trainer = LoraTrainer(LoraSettings.model_validate({**config, **settings}))
    return trainer.train([sample(i) for i in range(20)], Lender(llama()), out, ctx)


def test_every_step_is_logged_and_nothing_else_changes(kept: type[Kept], tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", FakeContext())
    assert kept.seen == []
    result = trained(tmp_path / "a", FakeContext(), trackers=["mlflow"])
    assert result.losses == plain.losses
    assert result.ref.digest == plain.ref.digest
    first, settings, *steps, last = kept.seen
    assert first == ("starts", "nfilter", {"run_name": "test.stage"})
    assert settings[1]["batch_size"] == 8
    assert [step for step, _ in steps] == list(range(1, 7))
    assert [values["loss"] for _, values in steps] == list(result.losses)
    assert steps[0][1]["learning_rate"] == 1e-3
    assert all(values["gradient_norm"] > 0 for _, values in steps)
    assert last == "ends"


def test_a_training_that_goes_on_logs_the_steps_that_were_left(
    kept: type[Kept], tmp_path: Path
) -> None:
    settings = {"checkpoint_every": 2, "trackers": ["mlflow"]}
    kept.fails_at, kept.error = 4, KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, FakeContext(), **settings)
    assert kept.seen[-1] == "ends"
    kept.seen.clear()
    kept.fails_at = None
    trained(tmp_path, FakeContext(), **settings)
    assert [entry[0] for entry in kept.seen[2:-1]] == [3, 4, 5, 6]


def test_a_tracker_that_fails_costs_a_warning(kept: type[Kept], tmp_path: Path) -> None:
    kept.fails_at = 3
    result = trained(tmp_path, ctx := FakeContext(), trackers=["mlflow"])
    assert result.steps == 6
    assert [entry[0] for entry in kept.seen[2:-1]] == [1, 2]
    warnings = [text for kind, text in ctx.log.lines if kind == "warning" and "mlflow" in text]
    assert warnings == [
        "test.stage: mlflow failed at step 3 (OSError: the disk is full); training continues without trackers"
    ]


@pytest.mark.types("or remove train.trackers")
def test_a_tracker_that_does_not_start_ends_training_at_once(
    kept: type[Kept], tmp_path: Path
) -> None:
    kept.starts = False
    with pytest.raises(
        ModelError, match=r"mlflow did not start .OSError: no server.; .* remove train.tr"
    ):
        trained(tmp_path, FakeContext(), trackers=["mlflow"])
    assert trained(tmp_path, FakeContext()).steps == 6


def test_no_tracker_needs_nothing(tmp_path: Path) -> None:
    with tracked((), tmp_path / "none", FakeContext(), {}) as figures:
        figures(1, {"loss": 1.0})
    assert not (tmp_path / "none").exists()
    assert LoraTrainer.contract(LoraSettings()).packages == {}


def test_a_tracker_is_a_package_that_check_looks_for() -> None:
    config = LoraSettings(trackers=("wandb", "tensorboard"))
    assert LoraTrainer.contract(config).packages == {"wandb": "wandb", "tensorboard": "tensorboard"}


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard_gets_a_file(tmp_path: Path) -> None:
    trained(tmp_path, FakeContext(), trackers=["tensorboard"])
    assert list((tmp_path / "trackers").rglob("events.out.tfevents.*"))


def test_trackers_are_no_part_of_what_a_training_goes_on_from(tmp_path: Path) -> None:
    trained(tmp_path, FakeContext())
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["config"]["trackers"] == []
    assert record["versions"]["accelerate"] == accelerate.__version__
