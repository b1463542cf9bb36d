"""Bounds of the noise rate compared with a grid search and with known rates."""

import itertools

import numpy as np
import pytest

from nfilter_robustft.statistics.bounds import Range, rate_range
from nfilter_robustft.statistics.posterior import Pattern

MANY = 10**9  # enough rows that sampling error is negligible


def one_view(p, options=4, trusted=()):
    counts = {
        Pattern((0, 0), options): round(p * MANY),
        Pattern((0, 1), options): round((1 - p) * MANY),
    }
    if trusted:
        agree, differ = trusted
        counts[Pattern((0, 0), options, trusted=True)] = agree
        counts[Pattern((0, 1), options, trusted=True)] = differ
    return counts


def grid_search(p, options, alphas):
    """Return the smallest and largest rho for which some allowed alpha and beta give p."""
    limit = {2: 0.6, 3: 0.4}.get(options, 1 / 3)
    rates = []
    for alpha in alphas:
        for beta in np.linspace(0, min(limit, 1.5 * (1 - alpha)), 201):
            if alpha != beta and 0 <= (rho := (alpha - p) / (alpha - beta)) <= 1:
                rates.append(rho)
            elif alpha == beta == p:
                rates += [0.0, 1.0]
    return min(rates), max(rates)


@pytest.mark.parametrize("options", [0, 2, 3, 4])
@pytest.mark.parametrize("p", [0.1, 0.45, 0.6, 0.75, 0.97])
def test_one_view_equals_grid_search(p, options):
    found = rate_range(one_view(p, options), 1)
    low, high = grid_search(p, options, np.linspace(0.5, 1, 501))
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.02)
    assert found.low == pytest.approx(max(0.0, 1 - 2 * p), abs=1e-3)
    assert found.estimate is None


def test_trusted_rows_determine_alpha():
    found = rate_range(one_view(0.6, trusted=(90 * 10**6, 10 * 10**6)), 1)
    low, high = grid_search(0.6, 4, [0.9])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)
    assert found.trusted == 10**8
    assert found.estimate == pytest.approx((low + high) / 2, abs=0.002)


def test_wide_range_has_no_point_estimate():
    assert rate_range(one_view(0.6, trusted=(5, 1)), 1).estimate is None
    assert Range(0.2, 0.29, 10, trusted=0).estimate is None
    assert Range(0.2, 0.29, 10, trusted=5).estimate == pytest.approx(0.245)


def two_views(agree, options=4):
    """Counts of (both confirm, only the first, only the second, both contradict, all differ)."""
    groups = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2)]
    return {
        Pattern(group, options): round(share * MANY)
        for group, share in zip(groups, agree, strict=True)
    }


def test_copied_view_does_not_change_the_range():
    twice = two_views([0.6, 0, 0, 0.4, 0])
    alone = rate_range(one_view(0.6), 1)
    found = rate_range(twice, 2)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=1e-3)


def test_another_view_never_raises_the_upper_bound():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares = rng.dirichlet([2, 1, 1, 2, 1])
        both = rate_range(two_views(shares), 2)
        for first in (0, 1):
            p = shares[0] + shares[1 + first]
            assert both.high <= rate_range(one_view(p), 1).high + 1e-3


def test_wrong_view_does_not_raise_the_lower_bound():
    # The good view confirms half of the labels, the bad one none.
    found = rate_range(two_views([0, 0.5, 0, 0, 0.5]), 2)
    assert found.low <= rate_range(one_view(0.5), 1).low + 1e-3


@pytest.mark.parametrize("wrong", [0.02, 0.065])
def test_range_contains_the_rate_if_views_share_mistakes(wrong):
    # Three views share a mistake in 9% of the rows, and one view alone errs in 3%; labels err independently.
    counts = {}
    for label, views in itertools.product((0, 1), ("right", "mistake", "split")):
        chance = (wrong if label else 1 - wrong) * {"right": 0.88, "mistake": 0.09, "split": 0.03}[
            views
        ]
        answers = {"right": (0, 0, 0), "mistake": (2, 2, 2), "split": (0, 0, 3)}[views]
        numbers = {}
        groups = tuple(numbers.setdefault(answer, len(numbers)) for answer in (label, *answers))
        counts[Pattern(groups, 4)] = counts.get(Pattern(groups, 4), 0) + round(chance * 2000)
    found = rate_range(counts, 3)
    assert found.low <= wrong <= found.high < 0.35


def test_rows_without_an_answer_widen_the_range():
    counts = {Pattern((0, 0), 4): 900_000, Pattern((0, 1), 4): 100_000}
    answered = rate_range(counts, 1)
    found = rate_range({**counts, Pattern((0, -1), 4): 1_000_000}, 1)
    assert found.high == pytest.approx((answered.high + 1) / 2, abs=1e-3)
    assert rate_range({Pattern((0, -1), 4): 50}, 1) == Range(0.0, 1.0, 50)


def test_few_rows_widen_the_range():
    few, many = (
        rate_range({Pattern((0, 0), 4): 8 * m, Pattern((0, 1), 4): 2 * m}, 1) for m in (1, 1000)
    )
    assert few.low <= many.low
    assert few.high > many.high + 0.1


@pytest.mark.parametrize("counts", [{}, {Pattern((-1, 0), 4): 5}])
def test_range_without_labels_or_views(counts):
    assert rate_range(counts, 1) == Range(0.0, 1.0, 0)
    assert rate_range({Pattern((0,), 4): 9}, 0) == Range(0.0, 1.0, 9)
