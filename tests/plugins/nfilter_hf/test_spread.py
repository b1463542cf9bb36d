"""What travels between the processes of a launch comes back as it was; two real processes are in lora/test_distributed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nfilter_hf.lora.data import TrainRow, pass_budget, rows_from_arrays, rows_to_arrays
from nfilter_hf.lora.distributed import Launch, _packed, _unpacked


def test_a_message_keeps_names_types_and_shapes() -> None:
    tensors = {
        "json": torch.arange(6).reshape(2, 3),
        "halves": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "none": torch.zeros(0, dtype=torch.bool),
    }
    values, found = _unpacked(
        torch.frombuffer(
            bytearray(_packed({"job": "é", "n": [1, None]}, tensors)), dtype=torch.uint8
        )
    )
    assert values == {"job": "é", "n": [1, None]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, equal_nan=True, rtol=0, atol=0)


def test_rows_are_the_same_behind_arrays() -> None:
    rows = [
        TrainRow(
            np.arange(length),
            np.array([length - 1]),
            np.array([length]),
            np.array([0.25], np.float32),
            {"loss.reference": np.array([length / 3], np.float32)} if length != 2 else {},
        )
        for length in (5, 2, 9)
    ]
    again = rows_from_arrays(rows_to_arrays(rows))
    assert [row.inputs.tolist() for row in again] == [row.inputs.tolist() for row in rows]
    for name in ("positions", "labels", "weights"):
        assert [getattr(row, name).tolist() for row in again] == [
            getattr(row, name).tolist() for row in rows
        ]
    scores = [row.scores["loss.reference"] for row in again]
    np.testing.assert_allclose(np.concatenate(scores), [5 / 3, np.nan, 3], rtol=1e-6)
    plain = rows_from_arrays(rows_to_arrays(rows[1:2]))
    assert plain[0].scores == {}


def test_passes_are_small_enough_for_every_process_to_have_one() -> None:
    rows = [
        TrainRow(np.arange(n), np.array([0]), np.array([1]), np.ones(1, np.float32))
        for n in (10, 30, 20)
    ]
    assert pass_budget(rows, 1000, "tokens", 1) == 1000
    assert pass_budget(rows, 1000, "tokens", 2) == 30
    assert pass_budget(rows, 1000, "samples", 3) == 30
    assert pass_budget([rows[0]] * 6, 1000, "tokens", 2) == 30
    assert pass_budget(rows, 16, "tokens", 2) == 16
    assert pass_budget(rows, 1000, "microbatch", 2) == 1000


def test_a_process_alone_tells_nobody_and_runs_everything() -> None:
    launch = Launch()
    launch.send_job("train", {})
    assert launch.leads
    assert launch.together(lambda: ({"n": 1}, {})) == [({"n": 1}, {})]
    assert launch.share(lambda: ({"n": 2}, {})) == ({"n": 2}, {})
    with pytest.raises(MemoryError):
        launch.together(lambda: (_ for _ in ()).throw(MemoryError()))
