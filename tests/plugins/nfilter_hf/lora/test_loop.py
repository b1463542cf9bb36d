"""What the training bar notes beside its count."""

from __future__ import annotations

import pytest

from nfilter_hf.lora.loop import _latest


@pytest.mark.parametrize(
    ("losses", "note"),
    [
        ([], ""),
        ([2.0], "loss 2.000"),
        ([9.0, *[1.0] * 9], "loss 1.800"),
        ([9.0, *[1.0] * 10], "loss 1.000"),
    ],
)
def test_the_mean_loss_of_the_last_ten_steps(losses: list[float], note: str) -> None:
    assert _latest(losses) == note
