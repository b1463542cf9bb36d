"""Two processes of a launch: what one process would give, and no process that waits for one that is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from nfilter import ModelError
from nfilter_hf.lora.data import share_out
from nfilter_hf.lora.distributed import Launch
from nfilter_hf.lora.loop import stream

ROOT = Path(__file__).resolve().parents[4]
PROGRAM = Path(__file__).with_name("process_program.py")
SECONDS = 120
"""What a process may take to notice, on a busy machine; nothing waits that long by design."""
LIMIT = 900
"""What a process may take in all: it imports for ten seconds of processor time, and the machine may be shared."""


def started(out: Path, options: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(out), json.dumps(options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


class Pair:
    """Two processes of one launch, without a launcher that would end one with the other."""

    def __init__(self, out: Path, options: dict[str, Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.both = [started(out, options, RANK=str(rank), **shared) for rank in (0, 1)]

    def ends(self, rank: int, seconds: float = LIMIT) -> tuple[int, str, str]:
        """Exit code, output and errors of a process."""
        process = self.both[rank]
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err


@pytest.fixture
def pair(checkpoint: Any) -> Iterator[Any]:
    made: list[Pair] = []

    def start(out: Path, **options: Any) -> Pair:
        made.append(Pair(out, {"model": str(checkpoint()), **options}))
        return made[-1]

    yield start
    for one in made:
        for process in one.both:
            process.kill()
            process.communicate()


@pytest.fixture
def alone(checkpoint: Any) -> Any:
    def run(out: Path, **options: Any) -> list[Any]:
        process = started(out, {"model": str(checkpoint()), **options})
        text, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
        return [json.loads(line) for line in text.splitlines()]

    return run


def assert_same(one: Path, other: Path, atol: float) -> None:
    left, right = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        np.testing.assert_allclose(tensor, right[name], rtol=0, atol=atol)
    assert max(float(tensor.abs().max()) for tensor in left.values()) > 0.01


def equal(tmp_path: Path, pair: Any, alone: Any, **options: Any) -> None:
    """Train alone and in two processes, these with the settings ``shared`` too."""
    shared = options.pop("shared", {})
    expected = alone(tmp_path / "one", **options)
    both = pair(
        tmp_path / "two", **{**options, "settings": {**options.get("settings", {}), **shared}}
    )
    code, out, err = both.ends(0)
    assert (code, both.ends(1)[0]) == (0, 0), err
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(expected) > 0
    for left, right in zip(found, expected, strict=True):
        assert left == pytest.approx(right, abs=1e-5)
    for name in options.get("trainings", ["one"]):
        assert_same(tmp_path / "one" / name, tmp_path / "two" / name, atol=1e-5)
        record = json.loads((tmp_path / "two" / name / "training.json").read_text())
        assert record["processes"] == 2


def test_two_processes_give_what_one_gives(tmp_path: Path, pair: Any, alone: Any) -> None:
    equal(tmp_path, pair, alone)


@pytest.mark.types("start every process with the same recipe and --set")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"trainings": ["one", "two"]},
        {"settings": {"loss_norm": "samples", "micro_batch_tokens": 40}},
        {"settings": {"loss_norm": "microbatch", "micro_batch_tokens": 40}},
        {"settings": {"loss_norm": "microbatch", "gradient_checkpointing": True}},
        {"samples": 1},  # the second process has nothing to do
        {"samples": 1, "loss": "dft"},
        {"loss": "dft", "settings": {"loss_norm": "samples"}},
        {"loss": "rho1", "settings": {"micro_batch_tokens": 40}},
        {"shared": {"shard": True}},
        {"samples": 1, "loss": "rho1", "shared": {"shard": True}},
    ],
    ids=str,
)
def test_whatever_a_step_is_made_of(
    tmp_path: Path, pair: Any, alone: Any, options: dict[str, Any]
) -> None:
    equal(tmp_path, pair, alone, **options)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, "rho1"])
def test_memory_that_runs_out_in_one_process_shrinks_the_passes_of_both(
    tmp_path: Path, pair: Any, alone: Any, loss: str | None
) -> None:
    expected = alone(tmp_path / "one", loss=loss)
    both = pair(tmp_path / "two", loss=loss, poison=[1, 5, "memory"])
    code, out, err = both.ends(0)
    assert (code, both.ends(1)[0]) == (0, 0), err
    assert "warning out of memory: training continues with" in err
    assert json.loads(out) == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, "dft"])
def test_a_loss_that_breaks_in_one_process_ends_training_for_both(
    tmp_path: Path, pair: Any, loss: str | None
) -> None:
    both = pair(tmp_path, loss=loss, poison=[1, 12, "nan"])
    code, out, err = both.ends(0)
    assert (code, both.ends(1)[0]) == (0, 0), err
    assert "warning training stopped early: the loss or its gradient was not finite" in err
    assert 1 <= len(json.loads(out)) < 8


@pytest.mark.slow
def test_a_killed_follower_ends_the_first_process_with_an_error(tmp_path: Path, pair: Any) -> None:
    both = pair(tmp_path, poison=[1, 4, "kill"])
    assert both.ends(1)[0] == -9
    code, _, err = both.ends(0, SECONDS)
    assert code == 5
    assert "another process of this launch ended without an error message, possibly killed" in err
    assert "run the same command to resume" in err


@pytest.mark.slow
def test_a_follower_that_fails_says_why_in_the_first_process(tmp_path: Path, pair: Any) -> None:
    both = pair(tmp_path, poison=[1, 4, "error"])
    code, _, err = both.ends(1)
    assert code == 1
    assert "RuntimeError: a bug in this process" in err
    code, _, err = both.ends(0, SECONDS)
    assert code == 5
    assert "process 1 of 2 of this launch failed (RuntimeError: a bug in this process)" in err


@pytest.mark.slow
def test_a_killed_first_process_ends_the_follower(tmp_path: Path, pair: Any) -> None:
    both = pair(tmp_path, poison=[0, 4, "kill"])
    assert both.ends(0)[0] == -9
    code, _, err = both.ends(1, SECONDS)
    assert code == 5
    assert "the first process of this launch ended without an error message" in err


@pytest.mark.slow
def test_a_run_that_fails_sends_the_follower_home(tmp_path: Path, pair: Any) -> None:
    both = pair(tmp_path, fail=True)
    code, _, err = both.ends(0)
    assert (code, "the run failed" in err) == (1, True)
    code, _, err = both.ends(1, SECONDS)
    assert (code, err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"settings 1": {"lr": 1e-3}},
            "the settings of the first process differ: start every process with the",
        ),
        (
            {"base 1": "other"},
            "the base of the first process differs from 'student' in this process (other)",
        ),
    ],
)
def test_processes_that_do_not_fit_are_refused(
    tmp_path: Path, pair: Any, options: dict[str, Any], says: str
) -> None:
    both = pair(tmp_path, **options)
    for rank in (1, 0):
        code, _, err = both.ends(rank)
        assert code == 5
        assert says in err


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint_with_the_same_dropout(
    tmp_path: Path, pair: Any, alone: Any
) -> None:
    settings = {"dropout": 0.3, "checkpoint_every": 2}
    whole = pair(tmp_path / "whole", settings=settings)
    code, out, err = whole.ends(0)
    assert code == 0, err
    stopped = pair(tmp_path / "broken", settings=settings, poison=[0, 6, "kill"])
    assert stopped.ends(0)[0] == -9
    stopped.ends(1)
    both = pair(tmp_path / "broken", settings=settings)
    code, again, err = both.ends(0)
    assert code == 0, err
    assert "training resumes after step 4" in err
    assert json.loads(again) == json.loads(out)
    assert_same(tmp_path / "whole" / "one", tmp_path / "broken" / "one", atol=0)
    one = alone(tmp_path / "one", settings=settings)
    assert one[0] != pytest.approx(json.loads(out), abs=1e-3)  # the other half drew its own dropout


def test_two_processes_answer_and_score_as_one(tmp_path: Path, pair: Any, alone: Any) -> None:
    options = {"answers": True, "settings": {"max_steps": 2}}
    expected = alone(tmp_path / "one", **options)
    both = pair(tmp_path / "two", **options)
    code, out, err = both.ends(0)
    assert (code, both.ends(1)) == (0, (0, "", "")), err
    found = [json.loads(line) for line in out.splitlines()]
    base, adapted, again = found[1:]
    assert base == again
    assert base[0] != adapted[0]
    for one, other in zip(expected[1:], found[1:], strict=True):
        for left, right in zip(one[0], other[0], strict=True):
            assert left.pop("logprobs") == pytest.approx(right.pop("logprobs"), abs=1e-4)
            assert left == right
        for left, right in zip(one[1], other[1], strict=True):
            assert left == pytest.approx(right, abs=1e-4)
    assert base[0][-1]["failure"]["kind"] == "too_long"


@pytest.mark.types("GPUs: start one per GPU with torchrun --nproc-per-node")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        ModelError, match=r"3 processes were started .* which has 2 GPUs: start one per"
    ):
        Launch.join()

    def alone(**_: Any) -> None:
        raise ValueError("nobody is there\nat all")

    monkeypatch.setattr("accelerate.PartialState", alone)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        ModelError, match=r"cannot connect \(nobody is there\): start them with torchrun"
    ):
        Launch.join()


def test_batches_are_shared_out_by_their_tokens() -> None:
    assert share_out([100, 90, 60, 50, 10], 2) == [0, 1, 1, 0, 0]
    assert share_out([5, 100], 2) == [1, 0]
    assert share_out([7], 3) == [0]
    rng = np.random.default_rng(0)
    for ranks in (2, 3, 8):
        sizes = sorted(rng.integers(1, 100, 40).tolist(), reverse=True)
        owners = share_out(sizes, ranks)
        loads = np.bincount(owners, weights=sizes, minlength=ranks)
        assert loads.max() - loads.min() <= max(sizes)
        assert owners[0] == 0


def test_every_process_draws_a_stream_of_its_own_at_every_step() -> None:
    drawn = {
        stream(seed, rank, step) for seed in range(3) for rank in range(4) for step in range(50)
    }
    assert len(drawn) == 600
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert stream(0, 1, 2) == stream(0, 1, 2)
