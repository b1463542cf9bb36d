"""Noise inside responses: what is put in stands where it is said to stand, and as much as is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import Message, NoiseSpan, Row, Sample, SourceError
from nfilter.noise.labels import NoiseConfig, inject
from nfilter.noise.responses import KINDS, PHRASES, TokenNoiseKind, plant

TEXTS = [
    "take 12 from 40 and 28 is left\nanswer: 28",
    "the lamp stands near the old station on monday",
    "first add 17 and 5, which is 22, then double it: 44",
    "red and blue make violet, as painters know",
]


def rows(texts: Sequence[str] = TEXTS, copies: int = 1) -> list[Row]:
    return [
        Row(Sample(f"s{i}", (Message("user", "q"), Message("assistant", text))), truth=text)
        for i, text in enumerate(list(texts) * copies)
    ]


def without(row: Row, kinds: set[str]) -> str:
    """The response with what was put in by ``kinds`` cut out again."""
    text = row.sample.response
    for span in reversed(row.noise or ()):
        if span.kind in kinds:
            text = text[: span.start] + text[span.end :]
    return text


def test_the_kinds_that_may_be_named_are_those_that_there_are() -> None:
    assert set(get_args(TokenNoiseKind)) == set(KINDS)


@given(
    st.lists(st.text(max_size=60), min_size=2, max_size=6),
    st.floats(0, 0.9),
    st.integers(0, 5),
)
def test_what_was_put_in_can_be_taken_out_again(texts: list[str], ratio: float, seed: int) -> None:
    made = rows(texts)
    if sum(bool(text.strip()) for text in texts) < 2:
        return
    for before, after in zip(made, plant(made, ratio, ("boilerplate", "aside"), seed), strict=True):
        assert without(after, {"boilerplate", "aside"}) == before.sample.response
        spans = after.noise or ()
        assert all(0 <= s.start < s.end <= len(after.sample.response) for s in spans)
        assert all(a.end <= b.start for a, b in pairwise(spans))
        assert (after.truth, after.sample.id) == (before.truth, before.sample.id)


def test_filler_is_a_phrase_and_an_aside_are_words_of_another_response_in_a_row() -> None:
    for row in plant(rows(), 0.5, KINDS, 3):
        for span in row.noise or ():
            piece = row.sample.response[span.start : span.end].strip()
            if span.kind == "boilerplate":
                assert piece in PHRASES
            if span.kind == "aside":
                others = [" ".join(t.split()) for t in TEXTS if t != row.truth]
                assert any(piece in other for other in others)
                assert 1 <= len(piece.split()) <= 6


def test_a_wrong_word_is_marked_whole_and_of_a_number_the_digits_that_changed() -> None:
    for row in plant(rows(copies=20), 0.4, ("wrong",), 0):
        old = re.split(r"(\s+)", row.truth or "")
        new = re.split(r"(\s+)", row.sample.response)
        assert len(old) == len(new)  # words are replaced, none is added
        # Outside the marked places nothing changed but for what the marked places pushed along.
        kept_new = without(row, {"wrong"})
        letters = Counter(kept_new) - Counter(row.truth or "")
        assert not letters
        for span in row.noise or ():
            piece = row.sample.response[span.start : span.end]
            assert piece.isdigit() or piece.isalpha()


@pytest.mark.parametrize("kinds", [KINDS, ("wrong",), ("aside",), ("boilerplate", "wrong")])
@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_the_share_of_noise_is_the_one_asked_for(
    kinds: tuple[TokenNoiseKind, ...], ratio: float
) -> None:
    if kinds == ("wrong",) and ratio > 0.5:
        pytest.skip("numbers keep digits, so that not all of a text can be made wrong")
    noisy = plant(rows(copies=250), ratio, kinds, 1)
    total = sum(len(row.sample.response) for row in noisy)
    noise = sum(span.end - span.start for row in noisy for span in row.noise or ())
    assert noise / total == pytest.approx(ratio, abs=0.02)
    by_kind = Counter[str]()
    for row in noisy:
        for span in row.noise or ():
            by_kind[span.kind] += span.end - span.start
    assert all(by_kind[kind] / noise == pytest.approx(1 / len(kinds), abs=0.05) for kind in kinds)


def test_a_row_has_its_noise_whatever_stands_before_it() -> None:
    one = {row.sample.id: row for row in plant(rows(), 0.4, KINDS, 0)}
    other = {row.sample.id: row for row in plant(rows()[::-1], 0.4, ("boilerplate", "wrong"), 0)}
    again = {row.sample.id: row for row in plant(rows(), 0.4, ("boilerplate", "wrong"), 0)}
    assert other == again
    assert one == {row.sample.id: row for row in plant(rows(), 0.4, KINDS, 0)}
    assert one != {row.sample.id: row for row in plant(rows(), 0.4, KINDS, 1)}


def test_asides_need_another_row() -> None:
    with pytest.raises(SourceError, match="other rows"):
        plant(rows(TEXTS[:1]), 0.4, KINDS, 0)
    assert plant(rows(TEXTS[:1]), 0.4, ("wrong",), 0)[0].noise


def test_an_empty_response_stays_empty_and_all_of_it_is_known() -> None:
    (empty, *_) = plant(rows(["", "some words here", "and others there"]), 0.5, KINDS, 0)
    assert (empty.sample.response, empty.noise) == ("", ())


def test_with_wrong_labels_the_places_are_known_in_right_ones_alone() -> None:
    config = NoiseConfig(ratio=0.5, tokens=0.3)
    done = inject([replace(row, truth=None) for row in rows(copies=5)], config, 0, "number")
    known = [row for row in done if row.noise is not None]
    assert len(known) == 10
    assert all(without(row, {"boilerplate", "aside"}) for row in known)
    assert all(row.truth in TEXTS for row in done)


def test_without_tokens_nothing_is_known_of_tokens() -> None:
    made = [replace(row, truth=None) for row in rows()]
    assert all(row.noise is None for row in inject(made, NoiseConfig(ratio=0.5), 0, "number"))


def test_a_config_says_how_much_and_of_what() -> None:
    assert NoiseConfig(tokens=0.4).ratio == 0
    for bad in ({}, {"tokens": 0.95}, {"tokens": 0.2, "kinds": []}, {"tokens": 0.2, "kinds": ["x"]},
                {"tokens": 0.2, "kinds": ["wrong", "wrong"]}):  # fmt: skip
        with pytest.raises(ValidationError):
            NoiseConfig.model_validate(bad)


def test_a_span_says_its_kind() -> None:
    assert NoiseSpan(0, 3, "wrong").kind == "wrong"
