"""Buckets: large ones are divided, each stores a bounded number of rows, and components are those of the graph."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nfilter_entp.purging.buckets import KEPT, Buckets, Leaders, group_numbers


def test_groups_are_values_that_come_twice() -> None:
    groups = group_numbers(np.array([5, 3, 5, 9, 3, 1], np.uint32))
    assert groups.tolist() == [1, 0, 1, -1, 0, -1]
    assert group_numbers(np.empty(0, np.uint32)).tolist() == []


def test_small_buckets_are_the_equal_hashes_of_a_band() -> None:
    bands = np.array([[7, 1], [7, 2], [8, 2], [9, 3]], np.uint32)
    buckets = Buckets.of(bands, np.zeros(4, np.uint32))
    assert buckets.of_row.tolist() == [[0, -1], [0, 1], [-1, 1], [-1, -1]]
    assert buckets.sizes.tolist() == [2, 2]
    assert buckets.parents.tolist() == [-1, -1]
    own, divided = buckets.of_one(1)
    assert (own.tolist(), divided.tolist()) == ([0, 1], [])
    assert buckets.components().tolist() == [0, 0, 0, 3]


def test_a_large_bucket_is_divided_by_question_and_then_by_further_bands() -> None:
    rows = 4 * KEPT
    n = np.arange(rows)
    # One bucket in band 0. Half of the rows ask questions of few rows; the others ask one, and differ in band 1.
    questions = np.where(n < rows // 2, n // 4, 1000).astype(np.uint32)
    bands = np.stack([np.zeros(rows), n // 8 + 10, 100 + n], axis=1).astype(np.uint32)
    buckets = Buckets.of(bands, questions)
    own = buckets.of_row[:, 0]
    assert (buckets.sizes[own] == np.where(n < rows // 2, 4, 8)).all()
    assert (buckets.parents[own] == 0).all()
    assert buckets.sizes[0] == rows
    expected = np.where(n < rows // 2, n // 4, 1000 + n // 8)
    assert ((own[:, None] == own) == (expected[:, None] == expected)).all()
    # A row that is alone in its part stays in the whole bucket.
    questions = np.where(n == 5, 7, n % 2).astype(np.uint32)
    again = Buckets.of(np.stack([np.zeros(rows), n // 2], axis=1).astype(np.uint32), questions)
    assert again.of_row[5, 0] == 0
    assert [each.tolist() for each in again.of_one(5)] == [[3], [0]]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 40))
def test_components_are_those_of_the_graph_of_rows_and_hashes(
    seed: int, rows: int, values: int
) -> None:
    rng = np.random.default_rng(seed)
    bands = rng.integers(0, rng.integers(1, 4 * values + 1), (rows, 6)).astype(np.uint32)
    questions = rng.integers(0, 3, rows).astype(np.uint32)
    hashes = bands.astype(int) + np.arange(6) * 1000
    pairs = (np.ones(rows * 6), (np.repeat(np.arange(rows), 6), rows + hashes.ravel()))
    _, expected = connected_components(coo_array(pairs, shape=(rows + 7000, rows + 7000)))
    labels = Buckets.of(bands, questions).components()
    first = [int(np.flatnonzero(expected[:rows] == part)[0]) for part in expected[:rows]]
    assert labels.tolist() == first


def test_a_full_bucket_replaces_the_row_that_was_used_longest_ago() -> None:
    rows = 3 * KEPT
    bands = np.zeros((rows, 1), np.uint32)
    buckets = Buckets.of(bands, np.zeros(rows, np.uint32))
    leaders = Leaders(buckets)
    whole = np.array([0], np.int32), np.empty(0, np.int32)
    assert leaders.candidates(*whole, 9) == []
    for row in range(KEPT):
        leaders.add(row, *whole)
    assert leaders.candidates(*whole, 2 * KEPT) == list(range(KEPT))
    leaders.touch(0)
    leaders.add(50, *whole)
    leaders.add(51, *whole)
    assert leaders.candidates(*whole, 2 * KEPT) == [0, *range(3, KEPT), 50, 51]


def test_rows_that_share_most_buckets_come_first() -> None:
    bands = np.array([[1, 1, 1, 1], [1, 1, 9, 9], [2, 1, 1, 1], [1, 8, 8, 2]], np.uint32)
    buckets = Buckets.of(bands, np.zeros(4, np.uint32))
    leaders = Leaders(buckets)
    for row in (1, 2, 3):
        leaders.add(row, *buckets.of_one(row))
    assert leaders.candidates(*buckets.of_one(0), 9) == [2, 1, 3]
    assert leaders.candidates(*buckets.of_one(0), 2) == [2, 1]


def test_rows_of_a_divided_bucket_alone_are_half() -> None:
    rows = 4 * KEPT
    n = np.arange(rows)
    buckets = Buckets.of(np.zeros((rows, 1), np.uint32), (n // 4).astype(np.uint32))
    leaders = Leaders(buckets)
    for row in range(rows - 1):
        leaders.add(row, *buckets.of_one(row))
    last = list(range(rows - 1 - KEPT, rows - 1))  # what the whole bucket stores
    own, divided = buckets.of_one(rows - 1)
    assert leaders.candidates(own, divided, 16) == [*last[-3:], *last[:8]]
    assert leaders.candidates(own, divided, 2) == last[-3:-1]
