"""Ids as numbers, and which of many texts were seen before."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import SeenTexts, hash_of, place_of
from nfilter.api.ids import SeenTexts as Seen


def test_the_number_of_a_text_is_the_start_of_its_sha256() -> None:
    digest = hashlib.sha256("ünï".encode()).hexdigest()
    assert hash_of("ünï") == int(digest[:16], 16)


@given(st.lists(st.text(max_size=3), unique=True, max_size=20), st.text(max_size=3))
def test_a_place_is_that_of_the_texts_number(texts: list[str], other: str) -> None:
    keys = np.array(sorted(map(hash_of, texts)), dtype=np.uint64)
    for text in texts:
        place = place_of(keys, text)
        assert place is not None
        assert int(keys[place]) == hash_of(text)
    assert (place_of(keys, other) is None) == (other not in texts)


@given(st.lists(st.text(max_size=3), max_size=60))
def test_a_text_is_first_once(texts: list[str]) -> None:
    seen = SeenTexts()
    known: set[str] = set()
    for text in texts:
        assert seen.first(text) == (text not in known)
        known.add(text)
    assert len(seen) == len(known)


def test_many_texts_take_few_bytes_each() -> None:
    seen = SeenTexts()
    for turn in range(2):
        firsts = sum(seen.first(f"row-{number}") for number in range(50_000))
        assert firsts == (0 if turn else 50_000)
    slots = seen._slots
    assert 50_000 * 12 <= sys.getsizeof(slots) <= 50_000 * 24 + 200


def test_equal_places_and_the_number_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"zero": 0, "one": 1, "wraps": 1023, "wraps too": 2047, "and again": 3071}
    monkeypatch.setattr("nfilter.api.ids.hash_of", numbers.__getitem__)
    seen = Seen()
    # 0 stands for a free slot, so a text with that number shares the next: 2^-64 of all texts.
    assert [seen.first(text) for text in numbers] == [True, False, True, True, True]
    assert not any(seen.first(text) for text in numbers)
