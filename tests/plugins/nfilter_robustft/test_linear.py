"""The linear classifier and its noise model, compared with refits and planted posteriors."""

import numpy as np
import pytest

from nfilter_robustft.statistics import linear, noise_model
from nfilter_robustft.statistics.discriminant import Labels


def labels_of(codes, classes=3, trusted=None):
    codes = np.asarray(codes)
    sure = np.zeros(len(codes), dtype=bool) if trusted is None else np.asarray(trusted)
    return Labels(codes, sure, classes)


def flipped(truth, rate, rng, classes=3):
    wrong = rng.random(len(truth)) < rate
    return np.where(wrong, (truth + rng.integers(1, classes, len(truth))) % classes, truth)


def planted(n, rate, seed=0, distance=2.0, classes=3, noise=20):
    """Spherical clusters in a plane with a known posterior, and ``noise`` uninformative dimensions."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    angle = 2 * np.pi * np.arange(classes) / classes
    centres = distance * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    plane = centres[truth] + rng.normal(size=(n, 2))
    distances = ((plane[:, None] - centres) ** 2).sum(axis=2)
    posterior = noise_model.softmax(-distances / 2)
    vectors = np.concatenate([plane, rng.normal(size=(n, noise))], axis=1)
    return vectors, truth, flipped(truth, rate, rng), posterior


def unique(n):
    return np.arange(n, dtype=np.uint64)


def test_held_out_scores_equal_a_refit_without_the_group():
    rng = np.random.default_rng(3)
    x, codes = rng.normal(size=(40, 6)), rng.integers(3, size=40)
    groups = np.arange(40, dtype=np.uint64)
    groups[35:] = groups[:5]
    trusted = np.arange(40) % 4 == 0
    found = linear._ridge(x, labels_of(codes, trusted=trusted), groups, 0.5, 1.0)
    weight = np.where(trusted, 1.0, 0.25)
    own = np.eye(3)[codes]
    target = np.where(trusted[:, None], own, (own - 0.5 / 3) / 0.5)
    mean = weight @ x / weight.sum()
    centred, middle = x - mean, weight @ target / weight.sum()

    def held_out(rows):
        # Ridge on the other rows with an unpenalised intercept, relative to the intercept of all rows.
        left = np.setdiff1d(np.arange(40), rows)
        a = np.concatenate([centred[left], np.ones((len(left), 1))], axis=1)
        penalty = np.diag([found.penalty] * 6 + [0.0])
        moment = (a * weight[left, None]).T @ (target[left] - middle)
        solved = np.linalg.solve((a * weight[left, None]).T @ a + penalty, moment)
        return np.concatenate([centred[rows], np.ones((len(rows), 1))], axis=1) @ solved + middle

    expected = np.empty((40, 3))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        expected[rows] = held_out(rows)
    expected = (expected - expected.mean(axis=0)) / expected.std()
    assert found.scores == pytest.approx(expected, abs=1e-8)


def test_predictions_of_new_rows():
    vectors, truth, codes, _ = planted(900, 0.3, distance=3.0)
    found = linear.fit([vectors[:600]], labels_of(codes[:600]), unique(600))
    before, after = found.others([vectors[600:]], labels_of(codes[600:]))
    assert np.mean(before.argmax(axis=1) == truth[600:]) > 0.9
    assert np.mean(after.argmax(axis=1) == truth[600:]) > np.mean(codes[600:] == truth[600:]) + 0.2


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5])
def test_noise_model_recovers_rate_and_posterior(rate):
    _, _, codes, posterior = planted(3000, rate)
    # Scores shifted by a constant per class, which the bias must recover.
    scores = np.log(posterior + 1e-9) + np.array([0.5, -0.5, 0.0])
    spread = scores.std()
    model = noise_model.fit(scores / spread, labels_of(codes))
    assert model.rate == pytest.approx(rate, abs=0.04)
    step = 0.65 / 19
    assert model.low - step <= rate <= model.high + step
    assert np.abs(model.probabilities(scores / spread) - posterior).mean() < 0.03
    evidence = np.where(np.eye(3)[codes] > 0, 1 - rate, rate / 2)
    expected = posterior * evidence / (posterior * evidence).sum(axis=1, keepdims=True)
    assert np.abs(model.posterior(scores / spread, labels_of(codes)) - expected).mean() < 0.03


@pytest.mark.parametrize("seed", [0, 1])
def test_texts_that_say_little_are_not_taken_for_wrong_labels(seed):
    """Five classes that overlap: who knows the true posterior names the true one in half of the rows."""
    rng = np.random.default_rng(seed)
    truth, angle = rng.integers(5, size=1200), 2 * np.pi * np.arange(5) / 5
    centres = 0.8 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    plane = centres[truth] + rng.normal(size=(1200, 2))
    posterior = noise_model.softmax(-((plane[:, None] - centres) ** 2).sum(axis=2) / 2)
    assert np.mean(posterior.argmax(axis=1) == truth) < 0.55
    codes = flipped(truth, 0.5, rng, classes=5)
    scores = np.log(posterior)
    scores = (scores - scores.mean(axis=0)) / scores.std()
    model = noise_model.fit(scores, labels_of(codes, classes=5))
    assert model.rate == pytest.approx(0.5, abs=0.06)
    expected = posterior * np.where(np.eye(5)[codes] > 0, 0.5, 0.125)
    expected /= expected.sum(axis=1, keepdims=True)
    after = model.posterior(scores, labels_of(codes, classes=5))
    assert np.abs(after - expected).mean() < 0.04
    assert np.mean(after.argmax(axis=1) == truth) > np.mean(codes == truth) + 0.03


@pytest.mark.parametrize(("rate", "right"), [(0.0, 0.99), (0.1, 0.97), (0.3, 0.95), (0.5, 0.88)])
def test_fit_recovers_the_rate_and_corrects_labels(rate, right):
    vectors, truth, codes, _ = planted(1500, rate, distance=2.5, noise=8)
    found = linear.fit([vectors], labels_of(codes), unique(1500))
    assert found.informative
    assert found.rate == pytest.approx(rate, abs=0.05)
    low, high = found.bounds
    assert low - 0.02 <= rate <= high + 0.02
    _, after = found.held_out()
    assert np.mean(after.argmax(axis=1) == truth) > right


def test_probabilities_are_calibrated_for_overlapping_clusters():
    vectors, truth, codes, _ = planted(2000, 0.3, distance=1.2)
    _, after = linear.fit([vectors], labels_of(codes), unique(2000)).held_out()
    top, hit = after.max(axis=1), after.argmax(axis=1) == truth
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        inside = (top >= low) & (top < high)
        assert hit[inside].mean() == pytest.approx(top[inside].mean(), abs=0.07)


def test_random_vectors_are_not_informative():
    rng = np.random.default_rng(0)
    for seed in range(5):
        codes = np.random.default_rng(seed).choice(3, p=[0.6, 0.3, 0.1], size=400)
        found = linear.fit(
            [rng.normal(size=(400, 30)), rng.normal(size=(400, 50))], labels_of(codes), unique(400)
        )
        assert not found.informative


def test_labels_at_chance_need_trusted_rows():
    vectors, truth, codes, _ = planted(900, 2 / 3, distance=3.0)
    assert not linear.fit([vectors], labels_of(codes), unique(900)).informative
    trusted = np.arange(900) < 60
    labels = labels_of(np.where(trusted, truth, codes), trusted=trusted)
    found = linear.fit([vectors], labels, unique(900))
    assert found.informative
    assert found.rate == pytest.approx(2 / 3, abs=0.06)
    before, after = found.held_out()
    assert np.mean(before[60:].argmax(axis=1) == truth[60:]) > 0.9
    assert (after[:60].argmax(axis=1) == truth[:60]).all()
    assert after[:60].max(axis=1) == pytest.approx(1.0)


def test_trusted_rows_allow_most_labels_to_be_wrong():
    vectors, truth, codes, _ = planted(900, 0.85, distance=3.0)
    trusted = np.arange(900) < 60
    found = linear.fit(
        [vectors], labels_of(np.where(trusted, truth, codes), trusted=trusted), unique(900)
    )
    assert found.rate == pytest.approx(0.85, abs=0.06)
    assert np.mean(found.held_out()[0].argmax(axis=1) == truth) > 0.9


def test_informative_encoder_gets_the_weight():
    vectors, _, codes, _ = planted(600, 0.3, distance=3.0)
    noise = np.random.default_rng(9).normal(size=(600, 22))
    found = linear.fit([noise, vectors], labels_of(codes), unique(600))
    weight = {}
    for member in found.members:
        weight[member.encoders] = weight.get(member.encoders, 0.0) + member.weight
    assert weight[0,] < 1e-6
    assert weight[1,] > 0.9


def test_subsets_of_encoders():
    assert list(linear.subsets(1)) == [(0,)]
    assert list(linear.subsets(3)) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert list(linear.subsets(4)) == [(0,), (1,), (2,), (3,), (0, 1, 2, 3)]


def test_fitted_bias_has_zero_gradient():
    rng = np.random.default_rng(1)
    logits, codes = rng.normal(size=(300, 4)) * 2, rng.integers(4, size=300)
    trusted = np.arange(300) < 20
    bias, likelihood = noise_model._fit_bias(logits, codes, trusted, 0.3, np.zeros(4))

    def value(b):
        p = noise_model.softmax(logits + b)[np.arange(300), codes]
        seen = np.where(trusted, p, 0.7 * p + 0.1 * (1 - p))
        return np.log(seen).sum(), np.log(seen).sum() - 0.5 * (b @ b) / 9

    assert likelihood == pytest.approx(value(bias)[0], abs=1e-9)
    for direction in np.eye(4):
        assert value(bias)[1] >= value(bias + 0.05 * direction)[1]
        assert value(bias)[1] >= value(bias - 0.05 * direction)[1]


@pytest.mark.parametrize("share", [0.5, 0.03])
def test_wrong_labels_are_found_whatever_the_share_of_a_class(share):
    """5% of the labels of two separate clusters are flipped: with a rare class most labels of it are then wrong."""
    rng = np.random.default_rng(2)
    truth = (rng.random(600) < share).astype(int)
    codes = flipped(truth, 0.05, rng, classes=2)
    vectors = np.concatenate([4.0 * truth[:, None] + rng.normal(size=(600, 1)), rng.normal(size=(600, 8))], axis=1)  # fmt: skip
    fitted = linear.fit([vectors], labels_of(codes, classes=2), unique(600))
    low, high = fitted.bounds
    assert low <= np.mean(codes != truth) <= high
    _, after = fitted.held_out()
    found = after.argmax(axis=1)
    assert np.mean(found == truth) > 0.98
    assert np.mean(found[codes != truth] == truth[codes != truth]) > 0.7
