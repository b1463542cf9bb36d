"""Buckets of rows that may be near duplicates, and the rows that stay in each: a bounded number, whatever the bucket's size.

Rows with an equal band hash are in one bucket. If many rows are edits of one row, a bucket may contain most rows of the dataset, and
comparing each row with all others of its buckets takes quadratic time. Therefore:

- a bucket of more than ``KEPT`` rows is divided, by the words of the question and then by the hashes of further bands, until each part
  has at most ``KEPT`` rows or ``_DEPTH`` further bands are used. The more similar two rows are, the more parts they share;
- each bucket and each part stores at most ``KEPT`` of its rows that stay. In a full one, a new row replaces the row that was last
  added or matched before all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KEPT = 32
"""Rows that a bucket stores, at most; a larger bucket is divided."""

_DEPTH = 4  # further bands that divide a bucket, at most
_DIVIDED = 8  # divided buckets of a row that are read: their rows are mostly the same

Ints = npt.NDArray[np.int32]


def group_numbers(column: npt.NDArray[np.unsignedinteger]) -> Ints:
    """Number the values that occur at least twice, from 0 in ascending order, int32 [n]; -1 for unique values."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    new = (
        np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(column) else np.empty(0, bool)
    )
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(column)))
    repeated = sizes > 1
    numbers = np.where(repeated, np.cumsum(repeated) - 1, -1).astype(np.int32)
    out = np.empty(len(column), np.int32)
    out[order] = np.repeat(numbers, sizes)
    return out


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets and parts of buckets of m rows, numbered together.

    ``of_row``: in each band, the part that a row is in, else its bucket, or -1 if its hash is unique, int32 [m, bands].
    ``parents``: the bucket that each part belongs to, -1 for a bucket, int32 [buckets]. ``sizes``: rows of each, int32 [buckets].
    """

    of_row: Ints
    parents: Ints
    sizes: Ints

    @classmethod
    def of(cls, bands: npt.NDArray[np.uint32], questions: npt.NDArray[np.uint32]) -> Buckets:
        """Number the buckets.

        Args:
            bands: band hashes [m, bands]; overwritten with ``of_row``, to save memory.
            questions: a hash of the words of each row's question [m].
        """
        of_row = bands.view(np.int32)
        width = bands.shape[1]
        first = bands[:, :_DEPTH].copy()  # bands after the last one
        parents: list[Ints] = []
        sizes: list[Ints] = []
        total = 0
        for band in range(width):
            numbers = group_numbers(bands[:, band])
            whole = _sizes(numbers)
            parents.append(np.full(len(whole), -1, np.int32))
            sizes.append(whole)
            numbers[numbers >= 0] += total
            begin, total = total, total + len(whole)
            leaves = numbers.copy()
            following = range(band + 1, band + 1 + min(_DEPTH, width - 1))
            further = [bands[:, n] if n < width else first[:, n - width] for n in following]
            for rows, parts in _divided(numbers - begin, [questions, *further]):
                leaves[rows] = parts + total
                part_sizes = _sizes(parts)
                part_parents = np.empty(len(part_sizes), np.int32)
                part_parents[parts] = numbers[rows]
                parents.append(part_parents)
                sizes.append(part_sizes)
                total += len(part_sizes)
            of_row[:, band] = leaves
        return cls(of_row, np.concatenate(parents), np.concatenate(sizes))

    def of_one(self, row: int) -> tuple[Ints, Ints]:
        """Return the parts and undivided buckets that a row is in, and its divided buckets."""
        own = self.of_row[row]
        own = own[own >= 0]
        parents = self.parents[own]
        alone = (parents < 0) & (self.sizes[own] > KEPT)
        return own[~alone], np.where(alone, own, parents)[alone | (parents >= 0)]

    def components(self) -> Ints:
        """Return the lowest row that each row is connected with through shared buckets, int32 [m].

        Rows of different components have no candidates in common.
        """
        labels = np.arange(len(self.of_row), dtype=np.int32)
        lowest = np.empty(len(self.sizes), np.int32)
        while True:
            before = labels.copy()
            for band in range(self.of_row.shape[1]):
                own = self.of_row[:, band]
                rows = np.flatnonzero(own >= 0)
                own = own[rows]
                parents = self.parents[own]
                buckets = np.where(parents >= 0, parents, own)
                lowest.fill(len(labels))
                np.minimum.at(lowest, buckets, labels[rows])
                labels[rows] = lowest[buckets]
            labels = labels[labels]
            if np.array_equal(labels, before):
                return labels


def _sizes(numbers: Ints) -> Ints:
    return np.bincount(numbers[numbers >= 0]).astype(np.int32)


def _divided(
    numbers: Ints, columns: list[npt.NDArray[np.uint32]]
) -> Iterator[tuple[npt.NDArray[np.int64], Ints]]:
    """Divide the groups of more than ``KEPT`` rows; yield rows and the part of each, numbered from 0 in each yield.

    A row that is alone in its part is in no yield: it stays in its bucket.
    """
    rows = np.flatnonzero(numbers >= 0)
    keys = numbers[rows]
    for depth, column in enumerate(columns, start=1):
        crowded = _sizes(keys)[keys] > KEPT
        rows, keys = rows[crowded], keys[crowded]
        if not len(rows):
            return
        parts = group_numbers(keys.astype(np.uint64) << np.uint64(32) | column[rows])
        shared = parts >= 0
        rows, keys = rows[shared], parts[shared]
        done = np.full(len(keys), depth == len(columns)) | (_sizes(keys)[keys] <= KEPT)
        if done.any():
            yield rows[done], np.unique(keys[done], return_inverse=True)[1].astype(np.int32)


class Leaders:
    """Rows that stay, by bucket: at most ``KEPT`` in each.

    Memory: 9 bytes per bucket, 4 per row of a bucket of up to ``KEPT`` rows (128 for a larger one), and 4 per row. With the numbers of
    the buckets that is up to 360 bytes per row, if all 25 hashes of a row are shared with one other row.
    """

    def __init__(self, buckets: Buckets) -> None:
        self._starts = np.concatenate([[0], np.cumsum(np.minimum(buckets.sizes, KEPT))])[:-1]
        self._filled = np.zeros(len(buckets.sizes), np.uint8)
        self._rows = np.empty(int(np.minimum(buckets.sizes, KEPT).sum()), np.int32)
        self._used = np.zeros(len(buckets.of_row), np.int32)
        self._clock = 0

    def candidates(self, own: Ints, divided: Ints, most: int) -> list[int]:
        """Return at most ``most`` rows that stay and share a bucket: those that share most first, then by number.

        Args:
            own: parts and undivided buckets of a row, from ``Buckets.of_one``.
            divided: its divided buckets, of which the first ``_DIVIDED`` are read. Rows that share no other bucket are half of ``most``, at most: in a template they
                usually ask another question.
            most: the maximum number.
        """
        divided = divided[:_DIVIDED]
        buckets = np.concatenate([own, divided])
        counts = self._filled[buckets].astype(np.int64)
        ends = np.cumsum(counts)
        if not len(ends) or not ends[-1]:
            return []
        begins = self._starts[buckets] - ends + counts
        rows = self._rows[np.repeat(begins, counts) + np.arange(ends[-1])]
        rows, places = np.unique(rows, return_inverse=True)
        first = np.argsort(-np.bincount(places), kind="stable")
        if len(divided):
            close = np.zeros(len(rows), bool)
            close[places[: ends[len(own) - 1] if len(own) else 0]] = True
            close = close[first]
            first = first[close | (np.cumsum(~close) <= max(1, most // 2))]
        return [int(row) for row in rows[first[:most]]]

    def add(self, row: int, own: Ints, divided: Ints) -> None:
        """Add a row that stays to its buckets."""
        self.touch(row)
        buckets = np.concatenate([own, divided])
        full = self._filled[buckets] == KEPT
        free, crowded = buckets[~full], buckets[full]
        self._rows[self._starts[free] + self._filled[free]] = row
        self._filled[free] += 1
        if len(crowded):
            places = self._starts[crowded][:, None] + np.arange(KEPT)
            oldest = self._used[self._rows[places]].argmin(axis=1)
            self._rows[places[np.arange(len(places)), oldest]] = row

    def touch(self, row: int) -> None:
        """Note that a row was added or matched just now."""
        self._clock += 1
        self._used[row] = self._clock
