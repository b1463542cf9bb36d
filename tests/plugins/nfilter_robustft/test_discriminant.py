"""Discriminant neighbour votes: calibration, trusted voters and groups."""

import numpy as np
import pytest

from nfilter_robustft.statistics import discriminant
from nfilter_robustft.statistics.discriminant import Calibration, Labels, Setting, calibrate


def labels(codes, classes, trusted=None):
    codes = np.asarray(codes, dtype=np.int64)
    sure = np.zeros(len(codes), dtype=bool) if trusted is None else np.asarray(trusted)
    return Labels(codes, sure, classes)


def drawn(rng, n, rho):
    """Draw vote shares, and labels from them, flipped at rate rho among three classes."""
    shares = rng.dirichlet([0.5, 0.5, 0.5], size=n)
    truth = np.array([rng.choice(3, p=row) for row in shares])
    flip = rng.random(n) < rho
    return shares, np.where(flip, (truth + rng.integers(1, 3, size=n)) % 3, truth), truth


def test_calibration_recovers_rate_and_power():
    shares, codes, _ = drawn(np.random.default_rng(0), 6000, 0.35)
    found = calibrate(shares, labels(codes, 3))
    assert found.rate == pytest.approx(0.35, abs=0.04)
    assert found.low <= 0.35 <= found.high
    assert found.power == pytest.approx(1.0, abs=0.2)
    blunt = calibrate(Calibration(0.5, 0.0, 0.0).apply(shares), labels(codes, 3))
    assert blunt.power == pytest.approx(2.0, abs=0.4)
    assert blunt.nll == pytest.approx(found.nll, abs=0.002)


def test_rate_above_chance_needs_trusted_labels():
    shares, codes, truth = drawn(np.random.default_rng(1), 4000, 0.85)
    assert calibrate(shares, labels(codes, 3)).rate < 2 / 3
    sure = np.arange(4000) < 400
    mixed = labels(np.where(sure, truth, codes), 3, sure)
    assert calibrate(shares, mixed).rate == pytest.approx(0.85, abs=0.04)


def test_trusted_voters_keep_their_label():
    # 40 untrusted rows have label 0 and 4 trusted rows label 1, at one point: weights 40 * 0.1 and 4.
    codes = [0] * 40 + [1] * 4
    given = labels(codes, 2, [False] * 40 + [True] * 4)
    x = np.random.default_rng(0).normal(size=(44, 3)) * 1e-3
    setting = Setting(k=44, ridge=None, rate=1e-6, trust=0.1)
    share = discriminant._model(x, given, setting)(np.zeros((1, 3)))[0]
    assert share == pytest.approx([0.5, 0.5], abs=0.01)
    # At a higher assumed rate, the votes of untrusted rows are spread; those of trusted rows are not.
    doubted = discriminant._model(x, given, Setting(k=44, ridge=None, rate=0.5, trust=0.1))
    assert doubted(np.zeros((1, 3)))[0][1] > 0.6


def test_rows_of_one_group_do_not_vote_for_one_another():
    # Random labels, each row twice: votes of copies would predict the labels.
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(120, 6)), 2, axis=0)
    codes = np.repeat(rng.integers(2, size=120), 2)
    twins = np.repeat(np.arange(120), 2)
    fair = discriminant.fit(x, labels(codes, 2), twins, np.random.default_rng(1), k=1)
    leaky = discriminant.fit(x, labels(codes, 2), np.arange(240), np.random.default_rng(1), k=1)
    assert not fair.informative
    assert leaky.informative


def test_wide_vectors_are_reduced():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=200)
    x = rng.normal(size=(200, 500)) * 0.1
    x[:, 0] += 2 * truth - 1
    votes = discriminant.fit(x, labels(truth, 2), np.arange(200), np.random.default_rng(0), k=10)
    assert discriminant.Reduction.of(x).apply(x).shape == (200, 384)
    assert (votes.probabilities.argmax(axis=1) == truth).mean() > 0.95
