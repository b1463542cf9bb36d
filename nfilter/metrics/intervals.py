"""Confidence intervals: of a share of independent rows, and of means over seeds that answered the same test rows.

Seeds and test rows are crossed random effects: each seed answers every row, so the rows of a second seed are no new
rows. An interval speaks of new seeds and of new rows of the same kind; with one seed, of new rows alone.
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
_NOTHING: Final = 1e-12  # a variance under it is the rounding of 0
_FARTHEST: Final = 1e6  # a ratio beyond it has no bound
_HALVINGS: Final = 60
_POWER: Final = 1.2  # of a part's share of the variance, in the degrees of freedom

_Array = npt.NDArray[np.float64]


def wilson(k: int, n: int, z: float = Z95) -> tuple[float, float] | None:
    """The Wilson score interval of a share of ``k`` in ``n``, at 95% by default; None where n is 0.

    Wilson (1927). Raises ValueError unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"a share needs 0 <= k <= n, not k={k}, n={n}")
    if n == 0:
        return None
    share = k / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # at the ends rounding would leave a bound just beside what it is exactly
    low = 0.0 if k == 0 else max(0.0, middle - half)
    high = 1.0 if k == n else min(1.0, middle + half)
    return low, high


def percentiles(draws: Sequence[float] | npt.NDArray[Any]) -> tuple[float, float]:
    """The 95% percentile interval of draws (resamples or draws of a posterior)."""
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def t_quantile(df: float, level: float = LEVEL) -> float:
    """The t for which a Student variable of ``df`` >= 1 degrees of freedom, whole or not, lies in [-t, t] with ``level``.

    With t = sqrt(df) tan(a) that probability is c times the integral of cos^(df - 1) from 0 to a. It is concave in a,
    so Newton's steps from the normal quantile, which is too small, rise to the root. Raises ValueError for df < 1.
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
    """A mean over seeds and rows: its standard error (None where one row cannot tell) and the half width at 95%."""

    value: float
    error: float | None
    half: float


@dataclass(frozen=True, slots=True)
class Crossed:
    """Mean squares of k quantities (arms) over the same seeds and rows: what every interval of them is made of.

    ``sums`` is [k] (sums of rights are whole, so that means of differences have no rounding of their own); ``by_seed``, ``by_row`` and ``rest`` are [k, k]: the mean squares and mean products of a two-way
    layout without replication, whose expectations are n_row var(seed) + var(rest), n_seed var(row) + var(rest) and
    var(rest). Those of one seed have ``by_row`` alone.
    """

    sums: _Array
    by_seed: _Array
    by_row: _Array
    rest: _Array
    seeds: int
    rows: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Crossed:
        """From values [k, seeds, rows]. Raises ValueError for another shape, or no seed or row."""
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
        """From the means [k, seeds] of seeds that answered other rows each, about ``rows`` of them.

        What differs between rows then differs between seeds as well. Raises ValueError for fewer than two seeds.
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
        """The mean of the combination with one weight a quantity, such as ``(1, -1)`` for a difference.

        Its variance is estimated by V = (by_seed + max(0, by_row - rest)) / (n_seed n_row), and 1 / df is the sum over
        both parts of share^p / df of the part. Satterthwaite (1946) has p = 2; but where three seeds agree by luck,
        by_seed and its share are too small at once, and his interval covers .92 there, as one of p = 1 covers .97 where
        seeds do not matter. p = 1.2 stays nearest to .95 (benchmarks/interval_coverage.py). Two seeds leave one degree of freedom, and even these cover .90: there the squares of both half widths are
        added (Graybill and Wang, 1980), which covers .95 and more.
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
            # Not one row differed; that says that few would, not that none would.
            return Mean(value, 0.0, _unseen(self.rows))
        error = math.sqrt(variance / units)
        if self.seeds == 2:
            squares = t_quantile(1) ** 2 * by_seed + t_quantile(max(1, self.rows - 1)) ** 2 * by_row
            return Mean(value, error, math.sqrt(squares / units))
        parts = ((by_seed, self.seeds), (by_row, self.rows))
        inverse = sum((part / variance) ** _POWER / max(1, n - 1) for part, n in parts)
        return Mean(value, error, t_quantile(max(1.0, 1 / inverse)) * error)

    def ratio(self, above: Sequence[float], below: Sequence[float]) -> tuple[float, float] | None:
        """The 95% interval of the ratio of two combinations (Fieller, 1954); None where it has no bounds.

        It holds every q for which the mean of above - q below is not told from 0. Where the denominator's own interval
        holds 0, no q is large enough to be told from the ratio, and there are no bounds.
        """
        top, under = np.asarray(above, np.float64), np.asarray(below, np.float64)
        bottom = self.mean(*under)
        if abs(bottom.value) <= bottom.half:
            return None
        middle = self.mean(*top).value / bottom.value

        def held(q: float) -> bool:
            found = self.mean(*(top - q * under))
            return abs(found.value) <= found.half

        low, high = _end(held, middle, -1.0), _end(held, middle, 1.0)
        return None if low is None or high is None else (low, high)


def _unseen(rows: int) -> float:
    """The share of rows that may differ where none of ``rows`` did."""
    bounds = wilson(0, rows)
    return 1.0 if bounds is None else bounds[1]


def _end(held: Callable[[float], bool], middle: float, side: float) -> float | None:
    """Where ``held`` ends to one side of ``middle``; None where it does not."""
    step = 0.125
    while held(middle + side * step):
        step *= 2
        if step > _FARTHEST:
            return None
    inner, outer = 0.0 if step == 0.125 else step / 2, step
    for _ in range(_HALVINGS):
        half = (inner + outer) / 2
        inner, outer = (half, outer) if held(middle + side * half) else (inner, half)
    return middle + side * outer
