"""Draw the rows of an audit: strata by flag and noise score, a seeded draw from each, and the answers that count."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nfilter.api.packed_texts import PackedTexts
from nfilter.store.files import digest

Places: TypeAlias = npt.NDArray[np.int64]

_BANDS = 3


@dataclass(frozen=True, slots=True)
class Unit:
    """One row of the population: its id, whether it is flagged, its noise score (None if it has none)."""

    id: str
    flagged: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class Stratum:
    """A part of the population: its size, the range of its scores, and the ids drawn from it."""

    name: str
    flagged: bool
    size: int
    low: float | None
    high: float | None
    drawn: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """The drawn rows in a random order, the same in the sheet and in the page.

    Attributes:
        name: A name that no other draw has, except one that extends it; decisions name the draw whose order showed the row.
        ids: The rows in that order; empty without a draw.
    """

    name: str
    ids: tuple[str, ...]


def in_random_order(strata: Sequence[Stratum], seed: int) -> Draw:
    """Return the drawn rows in an order that reveals no stratum."""
    ids = [sample_id for stratum in strata for sample_id in stratum.drawn]
    random.Random(f"{seed}\x1forder").shuffle(ids)
    return Draw(digest(ids)[:16] if ids else "", tuple(ids))


def in_extended_order(before: Draw, strata: Sequence[Stratum], seed: int) -> Draw:
    """Return the rows of an extended draw: first those of ``before`` in their order, then the new ones in a random order.

    It keeps the name of ``before``, whose order it continues, so that decisions that name it count.
    """
    known = set(before.ids)
    new = [name for stratum in strata for name in stratum.drawn if name not in known]
    random.Random(f"{seed}\x1forder\x1f{len(known)}").shuffle(new)
    return Draw(before.name, (*before.ids, *new))


def reached(ids: Sequence[str], answered: Collection[str], in_order: Collection[str]) -> int:
    """Return how many rows at the head of a random order count in an audit.

    An answer is a fact about its row, whoever chose the row. But the set of answered rows is a random sample only if it does not
    depend on what the rows are like, and a person who takes borderline rows first chooses by their scores. So the answered rows
    count up to the last one that was answered in the random order, and on up to the next row without an answer: a head of a random
    order is a random sample. Stopping in front of the next row that the order would show, in place of behind the last one that it
    showed, makes the share of chosen rows unbiased, as in inverse sampling (Haldane 1945, On a method of estimating frequencies).
    If all rows have an answer, all count.

    Args:
        ids: The drawn rows in the random order.
        answered: Those with an answer.
        in_order: Those that were shown in the random order, skipped ones included, and those with an answer in the sheet.
    """
    if all(sample_id in answered for sample_id in ids):
        return len(ids)  # also where nobody used the order
    end = max((place for place, sample_id in enumerate(ids, 1) if sample_id in in_order), default=0)
    while end and end < len(ids) and ids[end] in answered:
        end += 1
    return end


def draw(units: Iterable[Unit], n: int, seed: int) -> list[Stratum]:
    """Draw ``n`` rows, or all if there are fewer; half of them flagged if there are enough of both kinds.

    Flagged and other rows are each divided at quantiles of the noise score into up to three bands of equal size; rows
    without a score are a separate band. In each band the seed determines a random order, whose first rows are drawn: the draw
    is without replacement, depends only on ``seed`` and the ids, and can be extended. ``units`` is read once; a row takes its
    id and 33 bytes.
    """
    return _drawn(_Rows.of(units, seed), n, n, ())


def extended(
    units: Iterable[Unit], n: int, seed: int, more: int, before: Sequence[Stratum]
) -> list[Stratum] | None:
    """Return the draw ``before`` of ``n`` rows with further rows, ``more`` in all; None if it is not of these ``units``.

    Sizes and bands do not change. In each of them the further rows are a random sample of those that were not drawn, so that all
    drawn rows of a band are one random sample of it.
    """
    rows = _Rows.of(units, seed)
    after = _drawn(rows, n, more, before)
    same = [(s.name, s.size, s.low, s.high) for s in before] == [
        (s.name, s.size, s.low, s.high) for s in after
    ]
    return after if same else None


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a population: ``flagged`` (bool), ``scores`` (float64, NaN for none), and two independent random numbers each.

    ``ties`` (uint64) orders rows of equal score, ``lots`` (uint64) is the order in which the rows of a band are drawn.
    """

    ids: PackedTexts
    flagged: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    ties: npt.NDArray[np.uint64]
    lots: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, units: Iterable[Unit], seed: int) -> _Rows:
        flagged, scores, ties, lots = array("b"), array("d"), array("Q"), array("Q")

        def ids() -> Iterator[str]:
            for unit in units:
                flagged.append(unit.flagged)
                scores.append(math.nan if unit.score is None else unit.score)
                ties.append(_number(seed, unit.id))
                lots.append(_number(seed, "draw", unit.id))
                yield unit.id

        return cls(
            PackedTexts.of(ids()),
            np.array(flagged, dtype=np.bool_),
            np.array(scores, dtype=np.float64),
            np.array(ties, dtype=np.uint64),
            np.array(lots, dtype=np.uint64),
        )

    def bands(self, flagged: bool, share: int) -> list[Places]:
        """Return the bands of a group by noise score, without empty ones; ``share`` rows of the group are drawn."""
        group = np.flatnonzero(self.flagged == flagged)
        has_none = np.isnan(self.scores[group])
        unscored, scored = group[has_none], group[~has_none]
        # At least four drawn rows per band. Ties are broken at random.
        count = max(1, min(_BANDS, share // 4, len(scored)))
        ordered = scored[np.lexsort((self.ties[scored], self.scores[scored]))]
        cuts = [len(ordered) * number // count for number in range(count + 1)]
        bands = [ordered[start:end] for start, end in itertools.pairwise(cuts)]
        return [band for band in (*bands, unscored) if len(band)]

    def in_order(self, band: Places) -> Iterator[str]:
        """Yield the ids of a band in the order in which they are drawn."""
        return (self.ids[int(place)] for place in band[np.argsort(self.lots[band], kind="stable")])


def _drawn(rows: _Rows, n: int, more: int, before: Sequence[Stratum]) -> list[Stratum]:
    """The strata of a draw of ``n`` rows, with ``more`` rows drawn; those of ``before`` come first in each."""
    groups = [int(rows.flagged.sum()), int((~rows.flagged).sum())]
    first, all_rows = (_shares(groups, number, [1.0, 1.0]) for number in (n, more))
    known = {stratum.name: stratum.drawn for stratum in before}
    strata = []
    for flagged, share, total in zip((True, False), first, all_rows, strict=True):
        bands = rows.bands(flagged, share)
        sizes = [len(band) for band in bands]
        counts = _shares(sizes, total, sizes)
        for number, (band, count) in enumerate(zip(bands, counts, strict=True), start=1):
            name = f"{'flagged' if flagged else 'not flagged'}, band {number}"
            drawn = known.get(name, ())
            taken = set(drawn)
            others = (each for each in rows.in_order(band) if each not in taken)
            scores = rows.scores[band]
            low, high = (None, None) if np.isnan(scores[0]) else (scores.min(), scores.max())
            strata.append(
                Stratum(
                    name=name,
                    flagged=flagged,
                    size=len(band),
                    low=None if low is None else float(low),
                    high=None if high is None else float(high),
                    drawn=(*drawn, *itertools.islice(others, max(0, count - len(drawn)))),
                )
            )
    return strata


def _number(seed: int, *parts: str) -> int:
    """Return a random number below 2**64 that the seed and a row determine."""
    key = "\x1f".join((str(seed), *parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def _shares(sizes: Sequence[int], n: int, weights: Sequence[float]) -> list[int]:
    """Distribute ``n`` in proportion to ``weights``: at least one to each that is not empty, at most its size."""
    given = [0] * len(sizes)
    left = min(n, sum(sizes))
    for index, size in enumerate(sizes):
        if size and left:
            given[index] = 1
            left -= 1
    while left:
        open_to = [index for index, size in enumerate(sizes) if given[index] < size]
        # Next is the one that is furthest below its proportion.
        index = min(
            open_to,
            key=lambda i: ((given[i] + 0.5) / weights[i] if weights[i] else float("inf"), i),
        )
        given[index] += 1
        left -= 1
    return given
