"""Scores that a stage computes under a model: stored as they come, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import ContractError, FloatArray, TokenSample
from nfilter.models.token_scores import streamed
from nfilter.store.losses import ScoreCache, response
from nfilter.testing import token_sample


class Passes:
    """A computation that counts what it reads, and may fail behind so many samples."""

    def __init__(self, fail_behind: int | None = None) -> None:
        self.read: list[str] = []
        self.fail_behind = fail_behind
        self.closed = 0

    def __call__(self, samples: Sequence[TokenSample]) -> Iterator[FloatArray]:
        try:
            for sample in samples:
                if len(self.read) == self.fail_behind:
                    raise KeyboardInterrupt
                self.read.append(sample.id)
                yield scores_of(sample)
        finally:
            self.closed += 1


def scores_of(sample: TokenSample) -> FloatArray:
    return np.where(sample.response, sample.ids / 7, np.nan).astype(np.float32)


def samples(count: int) -> list[TokenSample]:
    # The first token is a response's in none of these; its score is kept all the same where it is.
    return [token_sample(str(n), f"{n:03d}", prompt="") for n in range(count)]


@pytest.fixture
def cache(tmp_path: Path) -> Callable[[], ScoreCache]:
    return lambda: ScoreCache(tmp_path, "m", None, response)


def test_scores_are_read_by_the_next_process_and_equal_samples_are_computed_once(
    cache: Any,
) -> None:
    first, again = Passes(), Passes()
    asked = [*samples(3), token_sample("another name", "001", prompt="")]
    for passes in (first, again):
        found = streamed(cache(), asked, passes, "s")
        for sample, scores in zip(asked, found, strict=True):
            np.testing.assert_array_equal(scores, scores_of(sample))
    assert len(first.read) == 3
    assert again.read == []
    assert first.closed == 1


def test_the_first_token_of_a_response_has_its_score(cache: Any) -> None:
    (sample,) = samples(1)
    whole = TokenSample(
        "a", sample.ids, np.ones(len(sample.ids), bool), sample.turn, sample.spans,
        np.ones(len(sample.ids), np.float32),
    )  # fmt: skip
    for _ in range(2):
        (scores,) = streamed(cache(), [whole], Passes(), "s")
        np.testing.assert_array_equal(scores, whole.ids.astype(np.float32) / np.float32(7))


def test_what_came_before_an_interrupt_is_not_computed_again(cache: Any) -> None:
    broken, rest = Passes(fail_behind=50), Passes()
    with pytest.raises(KeyboardInterrupt):
        streamed(cache(), samples(70), broken, "s")
    streamed(cache(), samples(70), rest, "s")
    assert len(broken.read) == 50
    assert rest.read == [str(n) for n in range(50, 70)]


def test_at_most_32_samples_are_not_on_disk_while_the_next_is_computed(cache: Any) -> None:
    stored: list[int] = []

    def watched(asked: Sequence[TokenSample]) -> Iterator[FloatArray]:
        for place, sample in enumerate(asked):
            stored.append(place - (len(asked) - len(cache().lacking(asked))))
            yield scores_of(sample)

    streamed(cache(), samples(70), watched, "s")
    assert max(stored) <= 32
    assert min(stored) >= 0


@pytest.mark.parametrize(
    ("compute", "says"),
    [
        (lambda asked: iter([scores_of(asked[0])]), r"s: 1 arrays for 2 samples; yield one per sample"),
        (lambda asked: (scores_of(each) for each in [*asked, asked[0]]), r"s: more arrays than the 2 samples"),
        (lambda asked: (scores_of(each)[1:] for each in asked), r"s: the scores of sample '0' have shape \(\d,\), not"),
    ],
)  # fmt: skip
def test_scores_of_another_form_are_refused(cache: Any, compute: Any, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        streamed(cache(), samples(2), compute, "s")
