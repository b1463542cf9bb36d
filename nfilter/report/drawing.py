"""Draw the rows of an audit: strata by flag and noise score, a seeded draw from each, and the answers that count."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nfilter.store.files import digest

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
        name: A name that no other draw has; decisions name the draw whose order showed the row.
        ids: The rows in that order; empty without a draw.
    """

    name: str
    ids: tuple[str, ...]


def in_random_order(strata: Sequence[Stratum], seed: int) -> Draw:
    """Return the drawn rows in an order that reveals no stratum."""
    ids = [sample_id for stratum in strata for sample_id in stratum.drawn]
    random.Random(f"{seed}\x1forder").shuffle(ids)
    return Draw(digest(ids)[:16] if ids else "", tuple(ids))


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


def draw(units: Sequence[Unit], n: int, seed: int) -> list[Stratum]:
    """Draw ``n`` rows, or all if there are fewer; half of them flagged if there are enough of both kinds.

    Flagged and other rows are each divided at quantiles of the noise score into up to three bands of equal size; rows
    without a score are a separate band. The draw is without replacement and depends only on ``seed`` and the ids.
    """
    groups = [
        [unit for unit in units if unit.flagged],
        [unit for unit in units if not unit.flagged],
    ]
    budget = _shares([len(group) for group in groups], n, [1.0, 1.0])
    strata = []
    for group, share in zip(groups, budget, strict=True):
        bands = _bands(group, share, seed)
        sizes = [len(band) for band in bands]
        for number, (band, count) in enumerate(
            zip(bands, _shares(sizes, share, sizes), strict=True), start=1
        ):
            rng = random.Random(f"{seed}\x1f{band[0].flagged}\x1f{number}")
            chosen = rng.sample(sorted(unit.id for unit in band), count)
            scores = [unit.score for unit in band if unit.score is not None]
            strata.append(
                Stratum(
                    name=f"{'flagged' if band[0].flagged else 'not flagged'}, band {number}",
                    flagged=band[0].flagged,
                    size=len(band),
                    low=min(scores, default=None),
                    high=max(scores, default=None),
                    drawn=tuple(chosen),
                )
            )
    return strata


def _bands(group: Sequence[Unit], share: int, seed: int) -> list[list[Unit]]:
    """Bands of ``group`` by noise score, without empty ones; ``share`` is the number of rows to draw from the group."""
    unscored = [unit for unit in group if unit.score is None]
    scored = [unit for unit in group if unit.score is not None]
    # At least four drawn rows per band. Ties are broken at random.
    count = max(1, min(_BANDS, share // 4, len(scored)))
    ordered = sorted(scored, key=lambda unit: (unit.score, _lot(seed, unit.id)))
    cuts = [len(ordered) * number // count for number in range(count + 1)]
    bands = [ordered[start:end] for start, end in itertools.pairwise(cuts)]
    return [band for band in (*bands, unscored) if band]


def _lot(seed: int, sample_id: str) -> bytes:
    key = f"{seed}\x1f{sample_id}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8).digest()


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
