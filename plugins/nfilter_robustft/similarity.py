"""Plain neighbours: shares of votes weighted by similarity, and the choice of k without truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter_robustft.index import Index
from nfilter_robustft.worth import foretells

NEIGHBOURS = (3, 10, 30, 100)
TEMPERATURES = (0.03, 0.1, 0.3)
PRIORS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)  # of a label that neighbours do not foretell
_TESTED = 2000


@dataclass(frozen=True, slots=True)
class Choice:
    """How many neighbours vote, and exp(similarity / temperature) their weight; ``nll`` of held-out labels under the votes
    and, for those that neighbours do not foretell, the frequencies; per label.

    ``baseline`` is the nll of the ``tested`` labels under the frequencies of labels.
    """

    k: int
    temperature: float
    nll: float
    baseline: float
    tested: int

    @property
    def informative(self) -> bool:
        """Whether the votes foretell held-out labels better than their frequencies do, by 3 nats or more."""
        return foretells(self.baseline, self.nll, self.tested)


def choose(
    arrays: Mapping[str, npt.NDArray[Any]], rng: np.random.Generator, k: int | None
) -> Choice:
    """The k and the temperature under which labels are likeliest, each left out in turn.

    ``arrays``: an index, ``codes`` int64 [n] of its labels and ``queries`` [n], equal where the query is the same;
    such rows do not vote for one another. At most 2,000 rows are tested. A label is taken to come from the frequencies
    with the probability that makes the labels likeliest, else from the votes, since a wrong label is foretold by no one.
    """
    codes, queries = arrays["codes"], arrays["queries"]
    rows = np.sort(rng.permutation(len(codes))[:_TESTED])
    limits = (k,) if k else NEIGHBOURS
    found, near = Index.open(arrays).search(arrays["vectors"][rows], max(limits) + 16)
    votes = (near >= 0) & (queries[near] != queries[rows][:, None])
    place = np.cumsum(votes, axis=1)
    agree = codes[near] == codes[rows][:, None]
    frequency = np.bincount(codes)[codes[rows]] / len(codes)
    baseline = -float(np.log(frequency).mean())
    best: Choice | None = None
    for limit in limits:
        for temperature in TEMPERATURES:
            counted = votes & (place <= limit)
            weight = np.where(counted, np.exp((np.maximum(found, -1) - 1) / temperature), 0.0)
            total = weight.sum(axis=1)
            voted = np.divide(
                (weight * agree).sum(axis=1), total, out=frequency.copy(), where=total > 0
            )
            nll = min(
                -float(np.log((1 - prior) * voted + prior * frequency).mean()) for prior in PRIORS
            )
            if best is None or nll < best.nll - 1e-9:
                best = Choice(limit, temperature, nll, baseline, len(rows))
    assert best is not None
    return best


def shares(
    similarities: Sequence[float], answers: Sequence[str], temperature: float
) -> dict[str, float]:
    """Each answer's share of exp(similarity / temperature)."""
    if not answers:
        return {}
    weights = np.exp((np.asarray(similarities) - max(similarities)) / temperature)
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights / weights.sum(), strict=True):
        totals[answer] = totals.get(answer, 0.0) + float(weight)
    return totals
