"""Multi-Otsu thresholds (Eq. 7) of weighted scores, by an exact dynamic programme over a histogram."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]

CLASSES = 5
BINS = 256


def multi_otsu(
    values: Any, weights: Any, classes: int = CLASSES, bins: int = BINS
) -> Doubles | None:
    """Return the ``classes - 1`` cuts that maximise the variance between classes, ascending; float64.

    ``values`` and ``weights`` are [n], finite, weights above 0. Bins have equal width from the smallest to the
    largest value. A cut is the midpoint between the adjacent values of two classes; among equally good cuts the
    lowest are returned. None if the values fill fewer bins than ``classes``.
    """
    x = np.asarray(values, dtype=np.float64)
    w = np.asarray(weights, dtype=np.float64)
    bin_of = _bin_indices(x, bins)
    # Empty bins contribute nothing, so classes are runs of filled bins.
    filled, index = np.unique(bin_of, return_inverse=True)
    if len(filled) < classes:
        return None
    mass: Doubles = np.bincount(index, weights=w).astype(np.float64)
    low = np.full(len(filled), np.inf)
    high = np.full(len(filled), -np.inf)
    np.minimum.at(low, index, x)
    np.maximum.at(high, index, x)
    starts = _starts(mass, mass * filled.astype(np.float64), classes)
    cuts: Doubles = (high[starts - 1] + low[starts]) / 2
    return cuts


def _bin_indices(x: Doubles, bins: int) -> npt.NDArray[np.int64]:
    if not len(x) or x.min() == x.max():
        return np.zeros(len(x), dtype=np.int64)
    share = (x - x.min()) / (x.max() - x.min())
    indices: npt.NDArray[np.int64] = np.minimum((share * bins).astype(np.int64), bins - 1)
    return indices


def _starts(mass: Doubles, moment: Doubles, classes: int) -> npt.NDArray[np.int64]:
    """Return the first bin of each class but the first ([classes - 1]).

    With P and S a class's sums of ``mass`` and ``moment``, the variance between classes is the sum of S^2 / P minus a
    constant. In round k, ``best[j]`` is the largest such sum over k + 1 classes that end before bin j.
    """
    n = len(mass)
    p = np.concatenate([[0.0], np.cumsum(mass)])
    s = np.concatenate([[0.0], np.cumsum(moment)])
    best = np.full(n + 1, -np.inf)
    best[1:] = s[1:] ** 2 / p[1:]
    choices: list[npt.NDArray[np.int64]] = []
    for _ in range(classes - 1):
        previous, best = best, np.full(n + 1, -np.inf)
        start = np.zeros(n + 1, dtype=np.int64)
        for end in range(1, n + 1):
            gains = previous[:end] + (s[end] - s[:end]) ** 2 / (p[end] - p[:end])
            start[end] = int(np.argmax(gains))
            best[end] = gains[start[end]]
        choices.append(start)
    out = []
    end = n
    for start in reversed(choices):
        end = int(start[end])
        out.append(end)
    return np.array(out[::-1], dtype=np.int64)
