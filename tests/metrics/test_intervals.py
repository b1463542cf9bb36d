"""Intervals against scipy, published formulas written out again, and cases by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nfilter.metrics.intervals import Crossed, percentiles, t_quantile, wilson


@pytest.mark.parametrize("seed", range(20))
def test_wilson_against_scipy(seed: int) -> None:
    from scipy.stats import binomtest

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 500))
    for k in (0, n, int(rng.integers(0, n + 1))):
        interval = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_wilson_by_hand() -> None:
    # 8 of 10 at 95%: 0.490 to 0.943, as printed in textbooks
    low, high = wilson(8, 10) or (0, 0)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 0) is None
    for k, n in ((-1, 3), (4, 3), (0, -1)):
        with pytest.raises(ValueError, match="0 <= k <= n"):
            wilson(k, n)


@pytest.mark.parametrize("n", [1, 5, 40, 172, 400])
def test_wilson_of_none_and_all_is_exact(n: int) -> None:
    """Nothing right: zero to z² / (n + z²), which is the formula by hand; all right is its mirror."""
    end = 12.25 / (n + 12.25)
    assert wilson(0, n, z=3.5) == (0.0, pytest.approx(end))
    assert wilson(n, n, z=3.5) == (pytest.approx(1 - end), 1.0)


@pytest.mark.parametrize("df", [1, 1.001, 1.7, 2, 2.6, 3, 4.4, 10, 302.3, 1999, 1e6])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_t_quantiles_against_scipy(df: float, level: float) -> None:
    from scipy.stats import t

    assert t_quantile(df, level) == pytest.approx(t.ppf((1 + level) / 2, df), rel=1e-7)


@pytest.mark.parametrize("df", [0.99, 0, -1, math.nan])
def test_no_t_quantile_under_one_degree_of_freedom(df: float) -> None:
    with pytest.raises(ValueError, match="df >= 1"):
        t_quantile(df)


def test_percentiles_are_of_the_draws() -> None:
    assert percentiles(range(1001)) == pytest.approx((25, 975))


def squares(d: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, rows and the rest by their textbook sums, one value at a time."""
    seeds, rows = d.shape
    mean = d.mean()
    by_seed = sum(rows * (d[s].mean() - mean) ** 2 for s in range(seeds)) / (seeds - 1)
    by_row = sum(seeds * (d[:, r].mean() - mean) ** 2 for r in range(rows)) / (rows - 1)
    rest = sum(
        (d[s, r] - d[s].mean() - d[:, r].mean() + mean) ** 2
        for s in range(seeds)
        for r in range(rows)
    )
    return by_seed, by_row, rest / ((seeds - 1) * (rows - 1))


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_difference_is_made_of_textbook_mean_squares(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    chance = rng.choice([0.1, 0.5, 0.9], size=(1, 1, 40))
    x = (rng.random((2, seeds, 40)) < chance + rng.normal(0, 0.05, (2, seeds, 1))).astype(float)
    by_seed, by_row, rest = squares(x[0] - x[1])
    found = Crossed.of(x).mean(1, -1)
    row = max(0, by_row - rest)
    variance = (by_seed + row) / (seeds * 40)
    share = by_seed / (by_seed + row)
    inverse = share**1.2 / (seeds - 1) + (1 - share) ** 1.2 / 39
    assert found.value == pytest.approx(x[0].mean() - x[1].mean())
    assert found.error == pytest.approx(math.sqrt(variance))
    assert found.half == pytest.approx(t_quantile(1 / inverse) * math.sqrt(variance))


def test_seeds_alone_vary_where_rows_do_not() -> None:
    # Each seed answers all rows alike: t of S - 1 = 2, 4.303, on the means of the seeds.
    d = np.array([[[0.1] * 50, [0.2] * 50, [0.6] * 50]])
    found = Crossed.of(d).mean(1)
    error = np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)
    assert found.error == pytest.approx(error)
    assert found.half == pytest.approx(4.302653 * error)


def test_rows_alone_vary_where_seeds_agree() -> None:
    # Three equal seeds are one: the rows are not three times as many.
    row = np.array([0.0, 1.0] * 20)
    three, one = Crossed.of(np.tile(row, (1, 3, 1))).mean(1), Crossed.of(row[None, None]).mean(1)
    assert three.error == pytest.approx(row.std(ddof=1) / math.sqrt(40))
    assert (three.error, three.half) == (pytest.approx(one.error), pytest.approx(one.half))
    assert one.half == pytest.approx(t_quantile(39) * one.error)


def test_two_seeds_add_the_squares_of_both_half_widths() -> None:
    rng = np.random.default_rng(0)
    d = (rng.random((2, 30)) < rng.random(30)).astype(float)
    by_seed, by_row, rest = squares(d)
    squared = t_quantile(1) ** 2 * by_seed + t_quantile(29) ** 2 * max(0, by_row - rest)
    assert Crossed.of(d[None]).mean(1).half == pytest.approx(math.sqrt(squared / 60))


def test_no_difference_seen_is_not_no_difference() -> None:
    found = Crossed.of(np.ones((2, 3, 20))).mean(1, -1)
    assert (found.value, found.error) == (0, 0)
    assert found.half == pytest.approx((wilson(0, 20) or (0, 0))[1])


def test_one_row_of_one_seed_has_no_error() -> None:
    assert Crossed.of([[[1.0]]]).mean(1).error is None


def test_seeds_with_rows_of_their_own_are_the_units() -> None:
    found = Crossed.of_means([[0.5, 0.6, 0.7]], 40).mean(1)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    with pytest.raises(ValueError, match="two seeds or more"):
        Crossed.of_means([[0.5]], 40)


@pytest.mark.parametrize("shape", [(3, 4), (1, 0, 4), (1, 3, 0)])
def test_values_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"quantities, seeds, rows"):
        Crossed.of(np.zeros(shape))


def test_a_ratio_of_rows_alone_is_fiellers() -> None:
    """One seed: the roots of (a - q b)^2 = t^2 (vaa - 2 q vab + q^2 vbb), a quadratic in q."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(1, 2, 60), rng.normal(3, 2, 60)
    cov = np.cov(a, b) / 60
    square = t_quantile(59) ** 2
    quadratic = (
        b.mean() ** 2 - square * cov[1, 1],
        -2 * (a.mean() * b.mean() - square * cov[0, 1]),
        a.mean() ** 2 - square * cov[0, 0],
    )
    found = Crossed.of(np.stack([a, b])[:, None]).ratio((1, 0), (0, 1))
    assert found == pytest.approx(sorted(np.roots(quadratic)), rel=1e-6)


def test_a_ratio_has_no_bounds_where_its_denominator_may_be_nought() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(1, 1, 20), rng.normal(0.2, 1, 20)
    crossed = Crossed.of(np.stack([a, b])[:, None])
    assert crossed.mean(0, 1).value < crossed.mean(0, 1).half
    assert crossed.ratio((1, 0), (0, 1)) is None
