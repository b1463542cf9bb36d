"""Metric ``token_noise`` compared with counts made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nfilter import JudgedTokens, TokenMetricInput, TokenSample
from nfilter_metrics.tokens import TokenNoise

NAN = float("nan")


def judged(
    weights: list[float],
    noise: dict[str, list[int]],
    scores: dict[str, list[float]],
    known: int = 0,
) -> JudgedTokens:
    """Build tokens; token 0 is the prompt, ``known`` the first position known to be noise or signal."""
    n = len(weights)
    response = np.arange(n) > 0
    sample = TokenSample(
        id="s", ids=np.arange(n), response=response, turn=np.zeros(n, np.int16),
        spans=np.zeros((n, 2), np.int32), weights=np.array(weights, np.float32),
        scores={name: np.array(values, np.float32) for name, values in scores.items()},
    )  # fmt: skip
    return JudgedTokens(
        sample,
        response & (np.arange(n) >= known),
        {kind: np.isin(np.arange(n), at) for kind, at in noise.items()},
    )


def figures(*items: JudgedTokens) -> dict[str, Any]:
    return dict(TokenNoise().compute_tokens(TokenMetricInput(items, ["a"], 0)))


def test_by_hand() -> None:
    one = judged([0, 0, 1, 0, 0.5], {"wrong": [1, 2], "aside": []}, {"x": [NAN, 1, 4, 2, 3]})
    two = judged([0, 1, 0, 1], {"aside": [2]}, {}, known=2)
    found = figures(one, two)
    # known: 1 2 3 4 of the first, 2 3 of the second; noise: 1 2 and 2; masked: 1 3 and 2
    assert (found["tokens"], found["samples"]) == (6, 2)
    assert (found["noise"], found["masked"]) == (0.5, 0.5)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["noise_kept"] == pytest.approx(1 / 3)
    assert found["signal_dropped"] == pytest.approx(1 / 3)
    assert found["by_kind"] == {
        "aside": {"tokens": 1, "recall": 1.0},
        "wrong": {"tokens": 2, "recall": 0.5},
    }
    # noise has 1 and 4, signal 2 and 3: of four pairs, signal is above in two
    assert found["roc_auc"] == {"x": 0.5}


def test_tokens_without_a_score_are_not_ranked() -> None:
    found = figures(judged([0, 1, 1, 1], {"wrong": [1]}, {"x": [NAN, 0, 1, NAN]}))
    assert found["roc_auc"] == {"x": 1.0}


def test_without_noise_and_without_tokens() -> None:
    found = figures(judged([0, 1, 0], {}, {"x": [NAN, 1, 2]}))
    assert (found["noise"], found["noise_kept"], found["recall"]) == (0.0, None, None)
    assert found["signal_dropped"] == 0.5
    assert found["roc_auc"] == {"x": None}
    assert figures() == {}
