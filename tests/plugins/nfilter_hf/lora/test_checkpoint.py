"""``hf.lora`` that is stopped and started again: it ends in the bytes of a training that nothing stopped."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from lent_llama import VOCABULARY, Lender, llama
from safetensors import SafetensorError, safe_open

from nfilter import ModelRef, TokenLoss, TokenSample, TrainingResult
from nfilter.testing import FakeContext
from nfilter_hf.lora import checkpoint
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_losses.dft import Dft, DftConfig
from nfilter_losses.rho1 import Rho1, Rho1Config

SCORE = "loss.reference"
STATE = Path("checkpoint") / "training.safetensors"


def sample(index: int, *, weight: float = 1.0, score: float = 0.0) -> TokenSample:
    rng = np.random.default_rng(index)
    length = int(rng.integers(6, 20))
    response = np.arange(length) >= length // 2
    scores = np.where(response, rng.gamma(2.0, 2.0, length) + score, np.nan)
    return TokenSample(
        id=str(index),
        ids=rng.integers(0, VOCABULARY, length).astype(np.int64),
        response=response,
        turn=np.zeros(length, dtype=np.int16),
        spans=np.zeros((length, 2), dtype=np.int32),
        weights=(response * weight).astype(np.float32),
        scores={SCORE: scores.astype(np.float32)},
    )


SAMPLES = [sample(i) for i in range(20)]


class Stopped(Exception):
    """A kill, as a test can have one."""


class Stopping(FakeContext):
    """A context whose progress stops the training behind the given step."""

    def __init__(self, at: int, **more: Any) -> None:
        super().__init__(**more)
        self.at = at

    @contextmanager
    def progress(self, total: int | None, text: str, note: Any = None) -> Any:
        steps = 0

        def advance(n: int = 1) -> None:
            nonlocal steps
            steps += n
            if n and steps == self.at:
                raise Stopped

        yield SimpleNamespace(advance=advance)


def train(
    out: Path,
    ctx: FakeContext | None = None,
    *,
    samples: list[TokenSample] = SAMPLES,
    module: Any = None,
    base: str = "fake",
    start: ModelRef | None = None,
    **config: Any,
) -> TrainingResult:
    settings = {
        "model": "student", "rank": 4, "dropout": 0.3, "lr": 1e-2, "batch_size": 8, "epochs": 4,
        "checkpoint_every": 2, **config,
    }  # fmt: skip
    trainer = LoraTrainer(LoraSettings.model_validate(settings))
    return trainer.train(samples, Lender(module or llama(), base), out, ctx or FakeContext(), start)


def stop(out: Path, at: int, loss: TokenLoss | None = None, **more: Any) -> None:
    with pytest.raises(Stopped):
        train(out, Stopping(at, loss=loss), **more)


def weights(out: Path) -> bytes:
    return (out / "adapter_model.safetensors").read_bytes()


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


LOSSES = {"plain": None, "dft": Dft(DftConfig()), "rho1": Rho1(Rho1Config(ratio=0.5))}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_stopped_training_ends_in_the_bytes_of_an_unbroken_one(
    tmp_path: Path, loss: TokenLoss | None
) -> None:
    whole = train(tmp_path / "whole", FakeContext(loss=loss))
    assert whole.steps == 12
    out = tmp_path / "broken"
    stop(out, 5, loss)  # goes on behind step 4
    stop(out, 9, loss)  # goes on behind step 8
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["training.safetensors"]
    ctx = FakeContext(loss=loss)
    done = train(out, ctx)
    assert done.losses == whole.losses
    assert (done.tokens, done.ref.digest) == (whole.tokens, whole.ref.digest)
    assert weights(out) == weights(tmp_path / "whole")
    assert (whole.resumed_from, done.resumed_from) == (None, 8)
    assert (record(tmp_path / "whole")["resumed_from"], record(out)["resumed_from"]) == (None, 8)
    assert ("info", "test.stage: training resumes after step 8") in ctx.log.lines
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "training.json",
    ]  # fmt: skip


def test_the_seconds_are_those_of_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(tmp_path, 5)
    file = tmp_path / STATE
    with safe_open(file, framework="pt") as found:
        metadata = found.metadata()
        tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    course = json.loads(metadata["course"])
    assert len(course["losses"]) == 4
    assert 0 < course["seconds"] < 60
    from safetensors.torch import save_file

    metadata["course"] = json.dumps({**course, "seconds": 5000.0})
    metadata["seal"] = checkpoint._seal(metadata["of"], metadata["course"], tensors)
    save_file(tensors, file, metadata=metadata)
    assert 5000 < train(tmp_path).seconds < 5060


def test_a_loss_that_breaks_right_behind_a_checkpoint_goes_back_as_ever(tmp_path: Path) -> None:
    def broken(steps: int) -> Any:
        """A module whose loss breaks at its n-th step: two calls check the head, then one comes a step."""
        module, calls = llama(), 0

        def poison(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return output * float("nan") if calls == 2 + steps else output

        module.model.norm.register_forward_hook(poison)
        return module

    whole = train(tmp_path / "whole", module=broken(5))
    assert whole.steps == 3
    stop(tmp_path / "broken", 5)
    done = train(tmp_path / "broken", module=broken(1))
    assert done.losses == whole.losses
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"samples": [*SAMPLES[:-1], sample(19, weight=2.0)]}, "data"),
        ({"samples": SAMPLES[::-1]}, "data"),
        ({"samples": [*SAMPLES[:-1], sample(19, score=1.0)]}, "data"),
        ({"lr": 2e-2}, "settings"),
        ({"epochs": 5}, "settings, steps"),
        ({"ctx": FakeContext(seed=1, loss=LOSSES["rho1"])}, "seed"),
        ({"ctx": FakeContext(loss=Rho1(Rho1Config(ratio=0.7)))}, "settings"),
        ({"base": "another"}, "base"),
    ],
)
def test_what_decides_the_course_decides_what_is_gone_on_from(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    stop(tmp_path / "broken", 5, LOSSES["rho1"])
    ctx = change.pop("ctx", FakeContext(loss=LOSSES["rho1"]))
    done = train(tmp_path / "broken", ctx, **change)
    assert done.resumed_from is None
    (said,) = (text for _, text in ctx.log.lines if "checkpoint" in text)
    assert f"of step 4 belongs to another training (changed: {named})" in said
    fresh = train(tmp_path / "fresh", FakeContext(seed=ctx.seed, loss=ctx.loss), **change)
    assert done.losses == fresh.losses
    assert weights(tmp_path / "broken") == weights(tmp_path / "fresh")


def test_another_start_or_version_is_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(tmp_path / "first").ref
    stop(tmp_path / "broken", 5)
    ctx = FakeContext()
    stop_again = Stopping(5)
    with pytest.raises(Stopped):
        train(tmp_path / "broken", stop_again, start=first)
    assert any("(changed: start)" in text for _, text in stop_again.log.lines)
    monkeypatch.setattr("nfilter_hf.lora.checkpoint.version", lambda name: "0.0")
    assert train(tmp_path / "broken", ctx, start=first).resumed_from is None
    assert any("(changed: versions)" in text for _, text in ctx.log.lines)


def test_how_often_is_no_part_of_the_course(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", checkpoint_every=None)
    stop(tmp_path / "broken", 5)
    done = train(tmp_path / "broken", checkpoint_every=5)
    assert done.resumed_from == 4
    assert done.ref.digest == whole.ref.digest


def test_without_checkpoints_nothing_is_kept(tmp_path: Path) -> None:
    stop(tmp_path, 5, checkpoint_every=None)
    assert not list(tmp_path.rglob("*"))
    assert LoraSettings(model="m").checkpoint_every == 50


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "a tensor", "the course"])
def test_a_checkpoint_that_cannot_be_read_costs_its_steps_and_a_warning(
    tmp_path: Path, damage: str
) -> None:
    whole = train(tmp_path / "whole")
    out = tmp_path / "broken"
    stop(out, 5)
    content = (out / STATE).read_bytes()
    course = content.replace(b'\\"losses\\": [', b'\\"losses\\": [1', 1)
    assert course != content
    (out / STATE).write_bytes(
        {
            "a tensor": content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
            "the course": course,
            "cut": content[: len(content) // 2],
            "text": b"no tensors " * 50,
            "empty": b"",
        }[damage]
    )
    ctx = FakeContext()
    assert train(out, ctx).ref.digest == whole.ref.digest
    (warning,) = (
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    )
    assert "training.safetensors cannot be read" in warning
    assert "training starts from the beginning" in warning


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    save, calls = safetensors.torch.save_file, []

    def killed(tensors: Any, file: Path, metadata: Any = None) -> None:
        calls.append(file)
        if len(calls) == 3:
            Path(file).write_bytes(b"half of it")
            raise Stopped
        save(tensors, file, metadata=metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", killed)
    with pytest.raises(Stopped):
        train(tmp_path / "broken")
    monkeypatch.undo()
    done = train(tmp_path / "broken")
    assert done.resumed_from == 4
    assert done.ref.digest == whole.ref.digest


def test_a_full_disk_costs_a_warning_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")

    save = safetensors.torch.save_file

    def full(tensors: Any, file: Path, metadata: Any = None) -> None:
        if file.parent.name == checkpoint.FOLDER:
            raise SafetensorError("I/O error: No space left on device")
        save(tensors, file, metadata=metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    ctx = FakeContext()
    assert train(tmp_path / "full", ctx).ref.digest == whole.ref.digest
    (warning,) = (
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    )
    assert "no checkpoint can be written" in warning
    assert "No space left" in warning


def test_a_start_with_dropout_has_the_head_of_its_base(tmp_path: Path) -> None:
    first = train(tmp_path / "first").ref
    ctx = FakeContext()
    train(tmp_path / "second", ctx, start=first, max_steps=1)
    assert [
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    ] == []
