"""Estimate a dataset's score transition matrix, with reasons to distrust it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nfilter import JSON, FloatArray, IntArray
from nfilter_entp.rating.transition import Array, Moments, Transition, fit

_MIN_TEXTS = 20  # distinct texts per class
_MIN_SIGMA = 3.0  # standard errors above chance agreement
_MAX_NOISE = 0.5  # a higher noise rate means the encoder does not capture what is rated
_MAX_MISFIT = 0.05  # total variation that is acceptable at any sample size
_MAX_FADE = 1 / 3  # largest loss of agreement beyond chance, from the nearest third to the farthest
_MIN_PRIOR = 0.01  # a rarer class need not dominate its row


@dataclass(frozen=True, slots=True)
class Estimate:
    """A fit, doubts about it, and how well it describes the consensus of ``n`` texts.

    ``agreement``: share of texts with the class of their neighbour; ``chance``: the share expected by chance; ``sampling``: total
    variation of c3 expected from sampling; ``by_distance``: agreement of the third of texts with the nearest neighbours, and of the
    third with the farthest; ``by_rank``: agreement with the two nearest neighbours, and with the farther half.
    """

    fit: Transition | None
    doubts: tuple[str, ...]
    rates: Array
    rate: float
    n: int = 0
    agreement: float | None = None
    chance: float | None = None
    misfit: float | None = None
    sampling: float | None = None
    by_distance: tuple[float, float] | None = None
    by_rank: tuple[float, float] | None = None

    def figures(self, present: npt.NDArray[np.int64]) -> dict[str, JSON]:
        """Return the figures for metrics.json; rows and columns of T are the classes ``present``."""
        names = [str(label) for label in present.tolist()]
        known = self.fit is not None
        p = self.fit.p if self.fit is not None else np.zeros(0)
        t = self.fit.t if self.fit is not None else np.zeros((0, 0))
        return {
            "classes": [int(label) for label in present],
            "prior": _by_class(names, p) if known else None,
            "transition": np.round(t, 4).tolist() if known else None,
            "noise_rate": round(self.rate, 4) if known else None,
            "noise_rate_by_class": _by_class(names, self.rates) if known else None,
            "trusted": not self.doubts,
            "doubts": list(self.doubts),
            "consensus": {
                "texts": self.n,
                "agreement": _rounded(self.agreement),
                "agreement_by_chance": _rounded(self.chance),
                "agreement_of_nearest_third": _rounded(self.by_distance and self.by_distance[0]),
                "agreement_of_farthest_third": _rounded(self.by_distance and self.by_distance[1]),
                "agreement_of_two_nearest": _rounded(self.by_rank and self.by_rank[0]),
                "agreement_of_farther_half": _rounded(self.by_rank and self.by_rank[1]),
                "misfit": _rounded(self.misfit),
                "misfit_of_sampling": _rounded(self.sampling),
                "steps": self.fit.steps if self.fit is not None else 0,
                "converged": self.fit.converged if self.fit is not None else False,
            },
        }


def majority_classes(
    codes: npt.NDArray[np.int64], row_text: IntArray, texts: int, classes: int
) -> npt.NDArray[np.int64]:
    """Return the class [texts] of each text: the most frequent among its rows, the lowest on ties; -1 without a rating."""
    counts = np.bincount(row_text * classes + codes, minlength=texts * classes)
    table = counts.reshape(texts, classes) if classes else np.zeros((texts, 1), dtype=np.int64)
    return np.where(table.sum(axis=1) > 0, table.argmax(axis=1), -1)


def estimate(
    labels: npt.NDArray[np.int64],
    near: IntArray,
    similarity: FloatArray,
    classes: int,
    noise: float | Literal["auto"],
) -> Estimate:
    """Estimate T and p from the ``labels`` [n] of texts (-1: none) and their two nearest of ``near`` [n, k] (-1: none).

    With a ``noise`` rate below 0.5 nothing is fitted: T has 1 - noise on its diagonal and equal values elsewhere; at 0 there is no T.
    """
    known = labels >= 0
    shares = np.bincount(labels[known], minlength=classes) / max(1, int(known.sum()))
    if noise != "auto":
        return _from_stated_noise(shares, noise)
    used = known & (near[:, :2] >= 0).all(axis=1)
    n = int(used.sum())
    if classes < 2:
        text = "all ratings are the same" if classes else "there are no ratings"
        return Estimate(None, (text,), np.zeros(classes), 0.0, n)
    if not n:
        return Estimate(
            None, (f"{_too_few(int(known.sum()), classes)}",), np.zeros(classes), 0.0, n
        )
    moments = Moments.of(labels[used], labels[near[used, :2]], classes)
    fitted = fit(moments)
    rates = fitted.noise_rates()
    rate = float(rates @ moments.c1)
    thirds = _agreement_by_distance(labels[used], labels[near[used, :2]], similarity[used, :2])
    ranks = _agreement_by_rank(labels, near, known)
    agreement, chance = float(np.trace(moments.c2)), float((moments.c1**2).sum())
    misfit = fitted.misfit(moments)
    # Mean absolute deviation of a multinomial; each draw counts in three orders.
    sampling = float(0.5 * np.sqrt(2 / math.pi * moments.c3 / (3 * n)).sum())
    doubts = [_too_few(n, classes)] if n < _MIN_TEXTS * classes else []
    doubt = _neighbour_doubt(agreement, chance, n, rate, thirds, ranks, near.shape[1])
    doubts += [] if doubt is None else [doubt]
    not_dominant = np.flatnonzero(
        (fitted.t.argmax(axis=1) != np.arange(classes)) & (fitted.p > _MIN_PRIOR)
    )
    if len(not_dominant):
        doubts.append("in some class the most frequent rating is a wrong one")
    if misfit > max(_MAX_MISFIT, 2 * sampling):
        doubts.append(
            f"the fit differs from the consensus by {misfit:.2f} (sampling explains {sampling:.2f})"
        )
    by_rank = None if ranks is None else ranks[:2]
    return Estimate(
        fitted, tuple(doubts), rates, rate, n, agreement, chance, misfit, sampling, thirds, by_rank
    )


def _neighbour_doubt(
    agreement: float,
    chance: float,
    n: int,
    rate: float,
    thirds: tuple[float, float],
    ranks: tuple[float, float, float] | None,
    k: int,
) -> str | None:
    """Return the first reason that neighbours may not share a class."""
    if agreement - chance < _MIN_SIGMA * math.sqrt(chance * (1 - chance) / n):
        return (
            f"neighbours have the same rating in {agreement:.1%} of cases, {chance:.1%} by chance"
        )
    if rate > _MAX_NOISE:
        return f"{rate:.0%} of the ratings would be wrong"
    if _fades_with_distance(thirds, chance, n):
        return (
            f"{thirds[0]:.0%} of near neighbours have the same rating, and {thirds[1]:.0%} of distant ones: classes"
            " overlap, and correct ratings would count as wrong"
        )
    if ranks is not None and _fades_with_rank(*ranks, chance):
        return (
            f"{ranks[0]:.0%} of the two nearest neighbours have the same rating, and {ranks[1]:.0%} of the farther half of"
            f" k: {k}, so k neighbours are not of one class: type for example k: {max(2, k // 3)}"
        )
    return None


def _agreement_by_distance(
    labels: npt.NDArray[np.int64], near: npt.NDArray[np.int64], similarity: FloatArray
) -> tuple[float, float]:
    """Return the agreement of the third of texts with the nearest neighbours, and of the third with the farthest."""
    order = np.argsort(-similarity.sum(axis=1), kind="stable")
    agree = (near == labels[:, None]).mean(axis=1)[order]
    size = -(-len(order) // 3)
    return float(agree[:size].mean()), float(agree[-size:].mean())


def _fades_with_distance(thirds: tuple[float, float], chance: float, n: int) -> bool:
    """Return whether agreement falls with distance; it does not if near samples share a class."""
    near, far = thirds
    error = math.sqrt((near * (1 - near) + far * (1 - far)) / (n / 3))
    return near - far > max(_MAX_FADE * (near - chance), _MIN_SIGMA * error)


def _agreement_by_rank(
    labels: npt.NDArray[np.int64], near: IntArray, known: npt.NDArray[np.bool_]
) -> tuple[float, float, float] | None:
    """Return the agreement with the two nearest and with the farther half of neighbours, and the difference's standard error."""
    half = max(2, near.shape[1] // 2)
    used = known & (near >= 0).all(axis=1)
    if half >= near.shape[1] or not used.any():
        return None
    agree = labels[near[used]] == labels[used, None]
    first, rest = agree[:, :2].mean(axis=1), agree[:, half:].mean(axis=1)
    error = float((first - rest).std()) / math.sqrt(len(first))
    return float(first.mean()), float(rest.mean()), error


def _fades_with_rank(first: float, rest: float, error: float, chance: float) -> bool:
    """Return whether agreement falls from the nearest neighbours to the last that vote."""
    return first - rest > max(_MAX_FADE * (first - chance), _MIN_SIGMA * error)


def _from_stated_noise(shares: Array, noise: float) -> Estimate:
    k = len(shares)
    if k < 2 or not noise:
        return Estimate(None, (), np.zeros(k), 0.0)
    other = noise / (k - 1)
    t = np.full((k, k), other)
    np.fill_diagonal(t, 1 - noise)
    # Solve shares = p T for p; a class rated less often than by mistake gets 0.
    p = np.maximum((shares - other) / (1 - noise - other), 0.0)
    fitted = Transition(p / p.sum(), t, 0.0, 0, converged=True)
    rates = fitted.noise_rates()
    return Estimate(fitted, (), rates, float(rates @ shares))


def _too_few(n: int, classes: int) -> str:
    return f"{n} distinct rated texts are too few for {classes} classes, which need {_MIN_TEXTS * classes}"


def _by_class(names: list[str], values: Array) -> dict[str, JSON]:
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
