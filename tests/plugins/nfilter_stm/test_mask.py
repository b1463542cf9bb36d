"""Masking by perplexity: known probabilities, the exact threshold, tokens without a prediction."""

from types import SimpleNamespace

import numpy as np

from nfilter import TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_stm import Mask, MaskConfig


def test_tokens_above_the_perplexity_are_masked():
    p = np.array([np.nan, 1.0, 0.41, 0.4, 0.39, 1e-60, 0.1])
    response = np.array([True, True, True, True, True, True, False])
    n = len(p)
    sample = TokenSample(
        id="x", ids=np.arange(n), response=response, turn=np.zeros(n, np.int16), spans=np.zeros((n, 2), np.int32),
        weights=np.where(response, 0.5, 0).astype(np.float32),
    )  # fmt: skip
    losses = np.where(response, -np.log(p), np.nan)
    losses[3] = np.log(2.5)  # exactly at the threshold
    config = MaskConfig()
    model = SimpleNamespace(score=lambda chunk: [losses for _ in chunk])
    ctx = FakeContext(models={"student": model})
    (out,), _ = check_token_stage(Mask, config, [sample], ctx, bit=2)
    assert list(out.weights) == [0.5, 0.5, 0.5, 0.5, 0, 0, 0]
    assert list(out.reasons) == [0, 0, 0, 0, 4, 4, 0]
    np.testing.assert_allclose(out.scores["perplexity"][1:5], 1 / p[1:5], rtol=1e-6)
