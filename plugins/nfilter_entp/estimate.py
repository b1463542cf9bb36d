"""The score transition matrix of a dataset, and reasons not to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nfilter import JSON, FloatArray, IntArray
from nfilter_entp.transition import Array, Moments, Transition, fit

_ENOUGH = 20  # distinct texts a class
_SURELY = 3.0  # standard errors by which neighbours agree more often than by chance
_MOST = 0.5  # a higher noise rate says that the encoder does not see what the ratings are about
_MISFIT = 0.05  # total variation that no one need explain, however many samples there are
_FADES = (
    1 / 3
)  # of what neighbours agree beyond chance, how much may be lost from the nearest third to the farthest
_PRIOR = 0.01  # a class that is rarer than this need not dominate its row


@dataclass(frozen=True, slots=True)
class Estimate:
    """A fit, why it is not to be trusted, and how well it describes the consensus of ``n`` texts.

    ``agreement``: how often a text and its neighbour have the same class, ``chance``: how often by chance;
    ``sampling``: the total variation of c3 to be expected of chance alone; ``by_distance``: the agreement of the third of
    texts whose two neighbours are nearest, and of the third whose are farthest; ``by_rank``: with the two nearest
    neighbours, and with the farther half of all.
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
        """For metrics.json; rows and columns of T are the classes ``present``."""
        names = [str(label) for label in present.tolist()]
        known = self.fit is not None
        p = self.fit.p if self.fit is not None else np.zeros(0)
        t = self.fit.t if self.fit is not None else np.zeros((0, 0))
        return {
            "classes": [int(label) for label in present],
            "prior": _named(names, p) if known else None,
            "transition": np.round(t, 4).tolist() if known else None,
            "noise_rate": round(self.rate, 4) if known else None,
            "noise_rate_by_class": _named(names, self.rates) if known else None,
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


def voices(
    codes: npt.NDArray[np.int64], row_text: IntArray, texts: int, classes: int
) -> npt.NDArray[np.int64]:
    """The class [texts] that each text votes with: its rows' most frequent, the lowest of equals; -1 without any."""
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
    """T and p from the ``labels`` [n] of texts (-1: none) and their two nearest of ``near`` [n, k] (-1: none).

    With a ``noise`` rate below 0.5 nothing is fitted: T has 1 - noise on its diagonal and the same everywhere else; at 0
    there is no T.
    """
    known = labels >= 0
    shares = np.bincount(labels[known], minlength=classes) / max(1, int(known.sum()))
    if noise != "auto":
        return _stated(shares, noise)
    used = known & (near[:, :2] >= 0).all(axis=1)
    n = int(used.sum())
    if classes < 2:
        text = "all ratings are the same" if classes else "there are no ratings"
        return Estimate(None, (text,), np.zeros(classes), 0.0, n)
    if not n:
        return Estimate(None, (f"{_few(int(known.sum()), classes)}",), np.zeros(classes), 0.0, n)
    moments = Moments.of(labels[used], labels[near[used, :2]], classes)
    found = fit(moments)
    rates = found.noise_rates()
    rate = float(rates @ moments.c1)
    thirds = _thirds(labels[used], labels[near[used, :2]], similarity[used, :2])
    ranks = _ranks(labels, near, known)
    agreement, chance = float(np.trace(moments.c2)), float((moments.c1**2).sum())
    misfit = found.misfit(moments)
    # Mean absolute deviation of a multinomial, each of three orders a draw.
    sampling = float(0.5 * np.sqrt(2 / math.pi * moments.c3 / (3 * n)).sum())
    doubts = [_few(n, classes)] if n < _ENOUGH * classes else []
    unlike = _unlike(agreement, chance, n, rate, thirds, ranks, near.shape[1])
    doubts += [] if unlike is None else [unlike]
    weak = np.flatnonzero((found.t.argmax(axis=1) != np.arange(classes)) & (found.p > _PRIOR))
    if len(weak):
        doubts.append("in some class another rating than the right one is the most frequent")
    if misfit > max(_MISFIT, 2 * sampling):
        doubts.append(
            f"the fit misses the consensus by {misfit:.2f} (chance explains {sampling:.2f})"
        )
    by_rank = None if ranks is None else ranks[:2]
    return Estimate(
        found, tuple(doubts), rates, rate, n, agreement, chance, misfit, sampling, thirds, by_rank
    )


def _unlike(
    agreement: float,
    chance: float,
    n: int,
    rate: float,
    thirds: tuple[float, float],
    ranks: tuple[float, float, float] | None,
    k: int,
) -> str | None:
    """Why neighbours cannot be taken to have one class; the first reason is enough."""
    if agreement - chance < _SURELY * math.sqrt(chance * (1 - chance) / n):
        return f"neighbours are rated the same in {agreement:.1%} of cases, by chance it would be {chance:.1%}"
    if rate > _MOST:
        return f"{rate:.0%} of the ratings would be wrong"
    if _fade(thirds, chance, n):
        return (
            f"of near neighbours {thirds[0]:.0%} are rated the same, of those farther off {thirds[1]:.0%}, so that"
            " classes overlap and ratings would count as wrong that are not"
        )
    if ranks is not None and _lost(*ranks, chance):
        return (
            f"of the two nearest neighbours {ranks[0]:.0%} are rated the same, of the farther half of k: {k} only"
            f" {ranks[1]:.0%}, so that k neighbours are not of one class: type k: {max(2, k // 3)}, say"
        )
    return None


def _thirds(
    labels: npt.NDArray[np.int64], near: npt.NDArray[np.int64], similarity: FloatArray
) -> tuple[float, float]:
    """How often the third of texts with the nearest neighbours agrees with them, and the third with the farthest."""
    order = np.argsort(-similarity.sum(axis=1), kind="stable")
    agree = (near == labels[:, None]).mean(axis=1)[order]
    size = -(-len(order) // 3)
    return float(agree[:size].mean()), float(agree[-size:].mean())


def _fade(thirds: tuple[float, float], chance: float, n: int) -> bool:
    """Whether agreement fades with distance: where near samples have one class, it does not."""
    near, far = thirds
    error = math.sqrt((near * (1 - near) + far * (1 - far)) / (n / 3))
    return near - far > max(_FADES * (near - chance), _SURELY * error)


def _ranks(
    labels: npt.NDArray[np.int64], near: IntArray, known: npt.NDArray[np.bool_]
) -> tuple[float, float, float] | None:
    """How often texts agree with their two nearest, with the farther half of all, and the standard error of the difference."""
    half = max(2, near.shape[1] // 2)
    used = known & (near >= 0).all(axis=1)
    if half >= near.shape[1] or not used.any():
        return None
    agree = labels[near[used]] == labels[used, None]
    first, rest = agree[:, :2].mean(axis=1), agree[:, half:].mean(axis=1)
    error = float((first - rest).std()) / math.sqrt(len(first))
    return float(first.mean()), float(rest.mean()), error


def _lost(first: float, rest: float, error: float, chance: float) -> bool:
    """Whether agreement fades from the nearest neighbours to the last that vote."""
    return first - rest > max(_FADES * (first - chance), _SURELY * error)


def _stated(shares: Array, noise: float) -> Estimate:
    k = len(shares)
    if k < 2 or not noise:
        return Estimate(None, (), np.zeros(k), 0.0)
    other = noise / (k - 1)
    t = np.full((k, k), other)
    np.fill_diagonal(t, 1 - noise)
    # shares = p T, solved for p; what is rated more seldom than by mistake is not there.
    p = np.maximum((shares - other) / (1 - noise - other), 0.0)
    fitted = Transition(p / p.sum(), t, 0.0, 0, converged=True)
    rates = fitted.noise_rates()
    return Estimate(fitted, (), rates, float(rates @ shares))


def _few(n: int, classes: int) -> str:
    return f"{n} distinct rated texts are too few for {classes} classes, which need {_ENOUGH * classes}"


def _named(names: list[str], values: Array) -> dict[str, JSON]:
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
