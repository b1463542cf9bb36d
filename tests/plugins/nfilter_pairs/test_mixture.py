"""The mirrored mixture: Bayes' rule on known densities, recovery of a known rate, and when it is not identifiable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nfilter_pairs.mixture import Mirrored, fit, sigmoid


def density(x: float, mean: float, sd: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * sd**2)) / sd


@pytest.mark.parametrize("margin", [-7.0, -0.5, 0.0, 2.0, 9.0])
def test_the_probability_of_a_flip_is_bayes_rule(margin: float) -> None:
    fitted = Mirrored(0.3, 4.0, 2.5, identified=True)
    right, flipped = 0.7 * density(margin, 4.0, 2.5), 0.3 * density(margin, -4.0, 2.5)
    assert fitted.flipped(margin) == pytest.approx(flipped / (right + flipped))


def drawn(rate: float, mean: float, sd: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    flips = rng.random(n) < rate
    return np.where(flips, -1, 1) * rng.normal(mean, sd, n), flips


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.4])
def test_a_known_rate_is_recovered_where_the_components_are_apart(rate: float) -> None:
    margins, _ = drawn(rate, 4.0, 2.0, 4000)
    fitted = fit(margins, np.zeros(len(margins), dtype=bool))
    assert fitted.identified
    assert (fitted.rate, fitted.mean, fitted.sd) == (
        pytest.approx(rate, abs=0.02),
        pytest.approx(4.0, abs=0.15),
        pytest.approx(2.0, abs=0.15),
    )


def test_flipping_all_labels_turns_the_rate_around() -> None:
    margins, _ = drawn(0.2, 4.0, 2.0, 2000)
    none = np.zeros(len(margins), dtype=bool)
    assert fit(-margins, none).rate == pytest.approx(1 - fit(margins, none).rate, abs=1e-6)


def test_overlapping_components_need_trusted_pairs() -> None:
    margins, flips = drawn(0.3, 1.0, 2.0, 8000)
    assert not fit(margins, np.zeros(len(margins), dtype=bool)).identified
    trusted = ~flips & (np.arange(len(margins)) < 2000)
    fitted = fit(margins, trusted)
    assert fitted.identified
    others = flips[~trusted].mean()
    assert fitted.rate == pytest.approx(others, abs=0.06)


def test_a_model_that_is_worse_than_chance_on_trusted_pairs_is_not_identified() -> None:
    margins, _ = drawn(0.0, -1.0, 1.0, 100)
    assert not fit(margins, np.ones(100, dtype=bool)).identified


def test_few_margins_do_not_tell_the_rate() -> None:
    margins, _ = drawn(0.2, 4.0, 1.0, 200)
    none = np.zeros(len(margins), dtype=bool)
    assert not fit(margins[:49], none[:49]).identified
    assert fit(margins[:50], none[:50]).identified


def test_no_margins_are_no_evidence() -> None:
    fitted = fit(np.zeros(0), np.zeros(0, dtype=bool))
    assert (fitted.identified, fitted.flipped(3.0)) == (False, pytest.approx(1e-6))


@pytest.mark.parametrize("value", [-1e6, -2.0, 0.0, 2.0, 1e6])
def test_sigmoid_does_not_overflow(value: float) -> None:
    assert 0.0 <= sigmoid(value) <= 1.0
    assert sigmoid(value) + sigmoid(-value) == pytest.approx(1.0)
