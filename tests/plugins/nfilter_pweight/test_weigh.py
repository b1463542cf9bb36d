"""Weights by probability: powers, bounds, and the reason recorded for a weight of 0."""

from types import SimpleNamespace

import numpy as np
import pytest

from nfilter import TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_pweight import Weigh, WeighConfig

P = np.array([np.nan, 1.0, 0.5, 0.25, 1e-300, 0.5])
RESPONSE = np.array([True, True, True, True, True, False])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [2, 2, 1, 0.5, 0, 0]),
        ({"power": 2}, [2, 2, 0.5, 0.125, 0, 0]),
        ({"power": 0}, [2, 2, 2, 2, 2, 0]),
        ({"power": -1, "most": 3}, [2, 2, 4, 6, 6, 0]),
        ({"least": 0.3}, [2, 2, 1, 0.6, 0.6, 0]),
    ],
)
def test_a_weight_is_multiplied_by_a_power_of_p(config, expected):
    sample = TokenSample(
        id="x", ids=np.arange(6), response=RESPONSE, turn=np.zeros(6, np.int16), spans=np.zeros((6, 2), np.int32),
        weights=np.where(RESPONSE, 2, 0).astype(np.float32),
    )  # fmt: skip
    model = SimpleNamespace(
        score=lambda chunk: [np.where(RESPONSE, -np.log(P), np.nan) for _ in chunk]
    )
    ctx = FakeContext(models={"student": model})
    (out,), _ = check_token_stage(Weigh, WeighConfig(**config), [sample], ctx, bit=1)
    np.testing.assert_allclose(out.weights, expected, rtol=1e-6)
    lost = (np.asarray(expected) == 0) & RESPONSE
    assert list(out.reasons) == [2 if each else 0 for each in lost]
    np.testing.assert_allclose(out.scores["p"][1:4], P[1:4], rtol=1e-6)
