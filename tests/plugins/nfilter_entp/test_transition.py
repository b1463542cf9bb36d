"""The score transition matrix: recovered from exact frequencies, with gradients that numbers agree with."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter_entp.rating.transition import (
    Moments,
    Transition,
    fit,
    loss_and_gradient,
    residuals_and_jacobian,
)


def drawn(classes, seed, least=0.55):
    """A prior and a matrix whose diagonal is at least ``least``."""
    rng = np.random.default_rng([classes, seed])
    p = rng.dirichlet(np.full(classes, 5.0))
    t = np.zeros((classes, classes))
    for y in range(classes):
        right = rng.uniform(least, 0.95)
        t[y, np.arange(classes) != y] = (1 - right) * rng.dirichlet(np.ones(classes - 1))
        t[y, y] = right
    return p, t


def by_loops(p, t):
    """The three consensus frequencies, term by term as the equations have them."""
    k = len(p)
    c1, c2, c3 = np.zeros(k), np.zeros((k, k)), np.zeros((k, k, k))
    for y in range(k):
        for i in range(k):
            c1[i] += p[y] * t[y, i]
            for j in range(k):
                c2[i, j] += p[y] * t[y, i] * t[y, j]
                for m in range(k):
                    c3[i, j, m] += p[y] * t[y, i] * t[y, j] * t[y, m]
    return c1, c2, c3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("classes", [3, 4, 5, 6])
def test_exact_frequencies_give_back_prior_and_matrix(classes, seed):
    p, t = drawn(classes, seed)
    found = fit(Moments(*by_loops(p, t)))
    np.testing.assert_allclose(found.p, p, atol=5e-4)
    np.testing.assert_allclose(found.t, t, atol=5e-4)
    # Bayes by hand.
    for i in range(classes):
        right = p[i] * t[i, i] / sum(p[y] * t[y, i] for y in range(classes))
        assert found.noise_rates()[i] == pytest.approx(1 - right, abs=2e-3)


def hard(classes, seed, least):
    """A prior from Dirichlet(1) with a smallest class of ``least``, and a diagonal of one half throughout."""
    rng = np.random.default_rng(seed)
    t = np.zeros((classes, classes))
    wrong = rng.dirichlet(np.ones(classes - 1), classes)
    for y in range(classes):
        t[y, np.arange(classes) != y] = 0.5 * wrong[y]
        t[y, y] = 0.5
    p = np.maximum(rng.dirichlet(np.ones(classes)), least)
    return p / p.sum(), t


@pytest.mark.parametrize("seed", [3, 10, 11, 12])
def test_rare_classes_and_raters_that_are_half_wrong_are_given_back_too(seed):
    """Adam alone is off by 0.0016 after 20,000 steps for seed 3."""
    p, t = hard(6, seed, 0.02)
    found = fit(Moments(*by_loops(p, t)))
    assert found.converged
    np.testing.assert_allclose(found.p, p, atol=5e-4)
    np.testing.assert_allclose(found.t, t, atol=5e-4)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_jacobian_is_the_one_that_differences_give(classes):
    rng = np.random.default_rng(classes)
    theta = rng.normal(size=classes + classes**2)
    near = rng.integers(classes, size=(50, 2))
    moments = Moments.of(rng.integers(classes, size=50), near, classes)
    residuals, jacobian = residuals_and_jacobian(theta, moments)
    assert residuals @ residuals == pytest.approx(loss_and_gradient(theta, moments)[0])
    for place in range(len(theta)):
        step = np.eye(len(theta))[place] * 1e-6
        up, down = (residuals_and_jacobian(theta + sign * step, moments)[0] for sign in (1, -1))
        np.testing.assert_allclose(jacobian[:, place], (up - down) / 2e-6, atol=1e-8)


def test_rows_that_changed_places_are_put_back():
    """From the start that is always taken, this matrix is found with two rows exchanged."""
    p = np.array([0.146, 0.451, 0.119, 0.284])
    t = np.array(
        [[0.588, 0.221, 0.106, 0.085], [0.026, 0.926, 0.035, 0.013], [0.004, 0.051, 0.645, 0.300], [0.031, 0.015, 0.347, 0.607]]
    )  # fmt: skip
    found = fit(Moments.implied(p, t))
    np.testing.assert_allclose(found.t, t, atol=5e-4)
    np.testing.assert_allclose(found.p, p, atol=5e-4)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_gradient_is_the_one_that_differences_give(classes):
    rng = np.random.default_rng(classes)
    theta = rng.normal(size=classes + classes**2)
    labels = rng.integers(classes, size=50)
    near = rng.integers(classes, size=(50, 2))
    moments = Moments.of(labels, near, classes)
    _, gradient = loss_and_gradient(theta, moments)
    h = 1e-6
    for place in range(len(theta)):
        step = np.zeros_like(theta)
        step[place] = h
        up, down = (loss_and_gradient(theta + sign * step, moments)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-9)


def test_the_gradient_holds_where_c3_is_not_symmetric():
    rng = np.random.default_rng(3)
    c3 = rng.dirichlet(np.ones(27)).reshape(3, 3, 3)
    c2 = rng.dirichlet(np.ones(9)).reshape(3, 3)
    moments = Moments(rng.dirichlet(np.ones(3)), c2, c3)
    theta = rng.normal(size=12)
    _, gradient = loss_and_gradient(theta, moments)
    for place in range(12):
        step = np.eye(12)[place] * 1e-6
        up, down = (loss_and_gradient(theta + sign * step, moments)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-9)


@given(st.integers(2, 5).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.tuples(*[st.integers(0, k - 1)] * 3), min_size=1, max_size=40))))  # fmt: skip
def test_consensus_frequencies_are_margins_of_one_another(case):
    k, rows = case
    triples = np.array(rows)
    m = Moments.of(triples[:, 0], triples[:, 1:], k)
    assert m.c3.sum() == pytest.approx(1)
    for order in permutations(range(3)):
        np.testing.assert_allclose(m.c3.transpose(order), m.c3)
    np.testing.assert_allclose(m.c3.sum(axis=0), m.c2)
    np.testing.assert_allclose(m.c2.sum(axis=0), m.c1)
    # Every label counts in all three places.
    np.testing.assert_allclose(m.c1, np.bincount(triples.ravel(), minlength=k) / triples.size)


def test_what_is_implied_is_what_the_equations_say():
    p, t = drawn(4, 0)
    m = Moments.implied(p, t)
    for found, wanted in zip((m.c1, m.c2, m.c3), by_loops(p, t), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-15)


def test_a_perfect_rater_has_no_noise_and_a_class_that_is_never_rated_no_rate_that_is_no_number():
    perfect = Transition(np.array([0.5, 0.5, 0.0]), np.eye(3), 0.0, 0, converged=True)
    assert perfect.noise_rates()[:2].tolist() == [0, 0]
    assert np.isfinite(perfect.noise_rates()).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_drawn_triples_give_prior_and_matrix_back_nearly(seed):
    """20,000 triples whose true class is shared: what is left is sampling error."""
    p, t = drawn(4, seed, least=0.7)
    rng = np.random.default_rng(seed)
    y = rng.choice(4, 20_000, p=p)
    labels = np.array([rng.choice(4, 3, p=t[c]) for c in y])
    moments = Moments.of(labels[:, 0], labels[:, 1:], 4)
    found = fit(moments)
    assert found.converged
    assert np.abs(found.t - t).max() < 0.06
    assert np.abs(found.p - p).max() < 0.02
    assert found.misfit(moments) < 0.02
