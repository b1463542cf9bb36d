"""Neighbour votes weighted by similarity, and the choice of k from noisy labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import FloatArray, IntArray
from nfilter_robustft.partitioned import Difference, Nearest, Vectors, open_index
from nfilter_robustft.statistics.chance_test import beats_frequencies

NEIGHBOURS = (3, 10, 30, 100)
TEMPERATURES = (0.03, 0.1, 0.3)
PRIORS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)  # P(label independent of its neighbours)
_MAX_TESTED = 2000


@dataclass(frozen=True, slots=True)
class Choice:
    """Number ``k`` of voters and the ``temperature`` of their weights exp(similarity / temperature).

    ``nll`` is that of the ``tested`` held-out labels under a mixture of votes and label frequencies, ``baseline`` that
    under label frequencies alone; both in nats per label.
    """

    k: int
    temperature: float
    nll: float
    baseline: float
    tested: int

    @property
    def informative(self) -> bool:
        """Whether the votes predict held-out labels better than frequencies, by 3 nats or more."""
        return beats_frequencies(self.baseline, self.nll, self.tested)


def choose_voters(
    arrays: Mapping[str, npt.NDArray[Any]],
    vectors: Vectors,
    rng: np.random.Generator,
    k: int | None,
) -> Choice:
    """Choose k (unless fixed) and the temperature by the leave-one-out likelihood of at most 2,000 labels.

    ``arrays``: an index of ``vectors``, with ``codes`` int64 [n] of the labels and ``queries`` [n]; rows with equal queries do not
    vote for one another. A wrong label is independent of its neighbours, so a label is modelled as drawn from the
    label frequencies with a fitted probability, and from the votes otherwise.
    """
    codes, queries = arrays["codes"], arrays["queries"]
    rows = np.sort(rng.permutation(len(codes))[:_MAX_TESTED])
    candidates = (k,) if k else NEIGHBOURS
    similarities, near = open_index(arrays).search(vectors[rows], max(candidates) + 16)
    votes = _other_queries(near, queries, rows)
    rank = np.cumsum(votes, axis=1)
    agree = codes[near] == codes[rows][:, None]
    frequency = np.bincount(codes)[codes[rows]] / len(codes)
    baseline = -float(np.log(frequency).mean())
    best: Choice | None = None
    for candidate in candidates:
        for temperature in TEMPERATURES:
            voters = votes & (rank <= candidate)
            weight = np.where(voters, np.exp((np.maximum(similarities, -1) - 1) / temperature), 0.0)
            total = weight.sum(axis=1)
            share = np.divide(
                (weight * agree).sum(axis=1), total, out=frequency.copy(), where=total > 0
            )
            nll = min(
                -float(np.log((1 - prior) * share + prior * frequency).mean()) for prior in PRIORS
            )
            if best is None or nll < best.nll - 1e-9:
                best = Choice(candidate, temperature, nll, baseline, len(rows))
    assert best is not None
    return best


def vote_shares(
    similarities: Sequence[float], answers: Sequence[str], temperature: float
) -> dict[str, float]:
    """Return each answer's share of the weights exp(similarity / temperature)."""
    if not answers:
        return {}
    weights = np.exp((np.asarray(similarities) - max(similarities)) / temperature)
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights / weights.sum(), strict=True):
        totals[answer] = totals.get(answer, 0.0) + float(weight)
    return totals


def difference(
    nearest: Nearest, arrays: Mapping[str, npt.NDArray[Any]], k: int, temperature: float
) -> Difference:
    """Compare the votes of ``k`` neighbours by an index and by all vectors; ``arrays`` as for ``choose_voters``.

    A changed result is a changed flag: a row is flagged if its neighbours vote for another answer than its label, before answers
    that agree are merged.
    """
    codes, queries, rows = arrays["codes"], arrays["queries"], nearest.queries
    voters, flags = [], []
    for similarities, near in (nearest.found, nearest.exact):
        votes = _other_queries(near, queries, rows)
        votes &= np.cumsum(votes, axis=1) <= k
        voters.append([set(each[votes[i]].tolist()) for i, each in enumerate(near)])
        flags.append(
            [
                _top_code(similarities[i][votes[i]], codes[near[i][votes[i]]], temperature)
                not in (-1, codes[row])
                for i, row in enumerate(rows)
            ]
        )
    found, exact = voters
    hits = sum(len(one & other) for one, other in zip(found, exact, strict=True))
    total = sum(map(len, exact))
    return Difference(
        hits / total if total else 1.0, float(np.mean(np.array(flags[0]) != np.array(flags[1])))
    )


def _other_queries(
    near: IntArray, queries: npt.NDArray[Any], rows: IntArray
) -> npt.NDArray[np.bool_]:
    """Return which neighbours [q, m] of ``rows`` have another query, and so a vote."""
    other: npt.NDArray[np.bool_] = (near >= 0) & (queries[near] != queries[rows][:, None])
    return other


def _top_code(similarities: FloatArray, codes: IntArray, temperature: float) -> int:
    """Return the code with the largest share of the votes; -1 without votes."""
    if not len(codes):
        return -1
    weights = np.exp((similarities - similarities.max()) / temperature)
    return int(np.bincount(codes, weights).argmax())
