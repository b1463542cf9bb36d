"""Which tokens are noise is read off the response's own place in the rendered text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nfilter import Message, NoiseSpan, Sample, TokenSample
from nfilter.metrics.tokens import judge_sample


def tokens(pieces: list[tuple[str, int, bool]], *, ends: int = 0) -> TokenSample:
    """Pieces of (text, turn, response) in a row; ``ends`` more response tokens without characters."""
    text = "".join(piece for piece, *_ in pieces)
    starts = np.cumsum([0, *(len(piece) for piece, *_ in pieces)])
    spans = [(starts[i], starts[i + 1]) for i in range(len(pieces))] + [
        (len(text), len(text))
    ] * ends
    response = np.array([answer for *_, answer in pieces] + [True] * ends)
    turn = [turn for _, turn, _ in pieces] + [pieces[-1][1]] * ends
    return TokenSample(
        id="s", ids=np.arange(len(spans)), response=response, turn=np.array(turn, np.int16),
        spans=np.array(spans, np.int32), weights=response.astype(np.float32), text=text,
    )  # fmt: skip


def sample(*messages: tuple[Any, str]) -> Sample:
    return Sample("s", tuple(Message(role, text) for role, text in messages))


def test_a_token_is_noise_where_more_than_half_of_it_is() -> None:
    encoded = tokens(
        [("<u>ab", 0, False), ("ab", 1, True), (" cdef", 1, True), ("gh", 1, True)], ends=1
    )
    one = sample(("user", "ab"), ("assistant", "ab cdefgh"))
    # "ef" of " cdef" is less than half; "defg" takes 3 of 5 and 1 of 2.
    found = judge_sample(encoded, one, [NoiseSpan(5, 7, "wrong")])
    assert found.known.tolist() == [False, True, True, True, True]
    assert not found.noise["wrong"].any()
    found = judge_sample(encoded, one, [NoiseSpan(4, 8, "wrong"), NoiseSpan(0, 2, "aside")])
    assert found.noise["wrong"].tolist() == [False, False, True, False, False]
    assert found.noise["aside"].tolist() == [False, True, False, False, False]


def test_the_response_is_found_behind_its_own_prompt() -> None:
    encoded = tokens([("yes", 0, False), ("no", 1, True), ("yes", 2, False), ("yes", 3, True)])
    one = sample(("user", "yes"), ("assistant", "no"), ("user", "yes"), ("assistant", "yes"))
    found = judge_sample(encoded, one, [NoiseSpan(0, 3, "wrong")])
    # The answer before is not what is under question.
    assert found.known.tolist() == [False, False, False, True]
    assert found.noise["wrong"].tolist() == [False, False, False, True]


@pytest.mark.parametrize("response", ["abx", ""])
def test_nothing_is_known_of_a_response_that_stands_otherwise_or_not_at_all(response: str) -> None:
    one = sample(("user", "q"), ("assistant", response))
    encoded = tokens([("q", 0, False), ("abc", 1, bool(response))])
    assert not judge_sample(encoded, one, [NoiseSpan(0, 1, "wrong")]).known.any()
