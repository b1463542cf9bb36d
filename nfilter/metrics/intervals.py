"""Confidence intervals of shares of independent rows, and of means over seeds that answered the same test rows.

Seeds and test rows are crossed random effects: each seed answers every row, so a second seed adds no rows. An interval covers
new seeds and new rows of the same kind; with one seed, only new rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

LEVEL: Final = 0.95
Z95: Final = 1.959963984540054
_NOTHING: Final = 1e-12  # a smaller variance is a rounding error of 0
_FARTHEST: Final = 1e6  # a larger bound of a ratio counts as unbounded
_HALVINGS: Final = 60
_POWER: Final = 1.2  # exponent of a part's share of the variance in the degrees of freedom

_Array = npt.NDArray[np.float64]


def wilson(k: int, n: int, z: float = Z95) -> tuple[float, float] | None:
    """Return the Wilson score interval (1927) of a share of ``k`` in ``n``, at 95% by default; None if n is 0.

    Raises:
        ValueError: unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"a share needs 0 <= k <= n, not k={k}, n={n}")
    if n == 0:
        return None
    share = k / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # at k = 0 and k = n rounding would change an exact bound
    low = 0.0 if k == 0 else max(0.0, middle - half)
    high = 1.0 if k == n else min(1.0, middle + half)
    return low, high


def percentiles(draws: Sequence[float] | npt.NDArray[Any]) -> tuple[float, float]:
    """Return the 95% percentile interval of draws (resamples or posterior draws), [n]."""
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def t_quantile(df: float, level: float = LEVEL) -> float:
    """Return t such that a Student variable with ``df`` >= 1 degrees of freedom, not only whole ones, is in [-t, t] with ``level``.

    With t = sqrt(df) tan(a) that probability is c times the integral of cos^(df - 1) from 0 to a. It is concave in a, so
    Newton's method converges from below, from the normal quantile, which is too small.

    Raises:
        ValueError: for df < 1.
    """
    if not df >= 1:
        raise ValueError(f"a t quantile needs df >= 1, not {df}")
    nodes, weights = _gauss()
    log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) + math.log(2 / math.sqrt(math.pi))
    c = math.exp(log_c)
    angle = math.atan(1.0 / math.sqrt(df))
    for _ in range(50):
        inside = np.cos(angle * (nodes + 1) / 2) ** (df - 1)
        missing = level - c * angle / 2 * float(weights @ inside)
        step = missing / (c * math.cos(angle) ** (df - 1))
        angle += step
        if abs(step) < 1e-14:
            break
    return math.sqrt(df) * math.tan(angle)


@cache
def _gauss() -> tuple[_Array, _Array]:
    return np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds and rows, its standard error (None for a single row) and the half width of its 95% interval."""

    value: float
    error: float | None
    half: float


@dataclass(frozen=True, slots=True)
class Crossed:
    """Mean squares of k quantities (arms) over the same seeds and rows, from which all intervals are computed.

    ``sums`` is [k]: sums of right answers are whole numbers, so means of differences have no rounding error. ``by_seed``,
    ``by_row`` and ``rest`` are [k, k]: the mean squares and mean products of a two-way layout without replication, whose
    expectations are n_row var(seed) + var(rest), n_seed var(row) + var(rest) and var(rest). With one seed only ``by_row`` is
    not 0.
    """

    sums: _Array
    by_seed: _Array
    by_row: _Array
    rest: _Array
    seeds: int
    rows: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Crossed:
        """Build from values [k, seeds, rows].

        Raises:
            ValueError: for another shape, or without seeds or rows.
        """
        x = np.asarray(values, dtype=np.float64)
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"values are [quantities, seeds, rows], not {x.shape}")
        k, seeds, rows = x.shape
        total = x.sum(axis=(1, 2))
        mean = total / (seeds * rows)
        seed = x.mean(axis=2) - mean[:, None]
        row = x.mean(axis=1) - mean[:, None]
        rest = (x - mean[:, None, None] - seed[:, :, None] - row[:, None, :]).reshape(k, -1)
        by_row = seeds * row @ row.T / max(1, rows - 1)
        if seeds == 1:
            return cls(total, np.zeros((k, k)), by_row, np.zeros((k, k)), 1, rows)
        by_seed = rows * seed @ seed.T / (seeds - 1)
        left = rest @ rest.T / ((seeds - 1) * max(1, rows - 1))
        return cls(total, by_seed, by_row, left, seeds, rows)

    @classmethod
    def of_means(cls, means: npt.ArrayLike, rows: int) -> Crossed:
        """Build from the means [k, seeds] of seeds that answered different rows, about ``rows`` each.

        The variance between rows is then part of the variance between seeds.

        Raises:
            ValueError: for fewer than two seeds.
        """
        x = np.asarray(means, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] < 2:
            raise ValueError(f"means are [quantities, two seeds or more], not {x.shape}")
        k, seeds = x.shape
        seed = x - x.mean(axis=1, keepdims=True)
        none = np.zeros((k, k))
        return cls(
            rows * x.sum(axis=1), rows * seed @ seed.T / (seeds - 1), none, none, seeds, rows
        )

    def mean(self, *weights: float) -> Mean:
        """Return the mean of a linear combination with one weight per quantity, e.g. ``(1, -1)`` for a difference.

        Its variance is estimated by V = (by_seed + max(0, by_row - rest)) / (n_seed n_row), and 1 / df is the sum over both
        parts of share^p / df of the part. Satterthwaite (1946) has p = 2; but if three seeds agree by chance, by_seed and its
        share are both too small, and his interval covers .92, and one with p = 1 covers .97 where seeds have no effect. p = 1.2
        is closest to .95 (benchmarks/interval_coverage.py). Two seeds leave one degree of freedom and cover .90; the squares of
        both half widths are then added (Graybill and Wang, 1980), which covers at least .95.
        """
        c = np.asarray(weights, dtype=np.float64)
        value = float(c @ self.sums) / (self.seeds * self.rows)
        by_seed = max(0.0, float(c @ self.by_seed @ c))
        by_row = max(0.0, float(c @ (self.by_row - self.rest) @ c))
        units = self.seeds * self.rows
        variance = by_seed + by_row
        if self.rows < 2 and self.seeds < 2:
            return Mean(value, None, _unseen(self.rows))
        if variance <= _NOTHING:
            # No row differed, so few would, not none.
            return Mean(value, 0.0, _unseen(self.rows))
        error = math.sqrt(variance / units)
        if self.seeds == 2:
            squares = t_quantile(1) ** 2 * by_seed + t_quantile(max(1, self.rows - 1)) ** 2 * by_row
            return Mean(value, error, math.sqrt(squares / units))
        parts = ((by_seed, self.seeds), (by_row, self.rows))
        inverse = sum((part / variance) ** _POWER / max(1, n - 1) for part, n in parts)
        return Mean(value, error, t_quantile(max(1.0, 1 / inverse)) * error)

    def ratio(self, above: Sequence[float], below: Sequence[float]) -> tuple[float, float] | None:
        """Return the 95% interval of the ratio of two combinations (Fieller, 1954); None if it is unbounded.

        It contains every q for which the interval of the mean of above - q below contains 0. It is unbounded if the
        denominator's interval contains 0.
        """
        top, under = np.asarray(above, np.float64), np.asarray(below, np.float64)
        bottom = self.mean(*under)
        if abs(bottom.value) <= bottom.half:
            return None
        middle = self.mean(*top).value / bottom.value

        def inside(q: float) -> bool:
            mean = self.mean(*(top - q * under))
            return abs(mean.value) <= mean.half

        low, high = _end(inside, middle, -1.0), _end(inside, middle, 1.0)
        return None if low is None or high is None else (low, high)


def _unseen(rows: int) -> float:
    """The largest plausible share of rows that differ if none of ``rows`` did."""
    bounds = wilson(0, rows)
    return 1.0 if bounds is None else bounds[1]


def _end(inside: Callable[[float], bool], middle: float, side: float) -> float | None:
    """The bound of ``inside`` on one side of ``middle``, by bisection; None if there is none."""
    step = 0.125
    while inside(middle + side * step):
        step *= 2
        if step > _FARTHEST:
            return None
    inner, outer = 0.0 if step == 0.125 else step / 2, step
    for _ in range(_HALVINGS):
        half = (inner + outer) / 2
        inner, outer = (half, outer) if inside(middle + side * half) else (inner, half)
    return middle + side * outer
