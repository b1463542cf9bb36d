"""The vote against every possible continuation."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from nfilter_panel.votes import grouped, standing

CHOICES = (None, 0, 1, 2)


def outcome(votes: tuple[int | None, ...], quorum: int) -> int | None:
    """The answer with more than half of the votes cast, with at least ``quorum`` of them; computed from the definition."""
    cast = [vote for vote in votes if vote is not None]
    if len(cast) < quorum:
        return None
    for answer, count in Counter(cast).items():
        if count > len(cast) / 2:
            return answer
    return None


@pytest.mark.parametrize("quorum", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_vote_is_final_exactly_when_no_waiting_vote_changes_it(size: int, quorum: int) -> None:
    for asked in range(size + 1):
        for votes in itertools.product(CHOICES, repeat=asked):
            waiting = size - asked
            # Two answers that nobody has given yet are enough: more of them make no majority more likely.
            ends = {
                outcome((*votes, *rest), quorum)
                for rest in itertools.product((*CHOICES, 7), repeat=waiting)
            }
            found = standing(votes, waiting, quorum)
            if found.final:
                assert ends == {found.winner}, (votes, waiting)
                assert found.ask == 0
            else:
                assert len(ends) > 1, (votes, waiting)
                assert 1 <= found.ask <= waiting


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_fewest_that_can_settle_it_are_asked(size: int) -> None:
    for asked in range(size):
        for votes in itertools.product(CHOICES, repeat=asked):
            waiting = size - asked
            found = standing(votes, waiting)
            if found.final:
                continue
            settles = [
                more
                for more in range(1, waiting + 1)
                if any(
                    standing((*votes, *rest), waiting - more).winner is not None
                    for rest in itertools.product((*CHOICES, 7), repeat=more)
                )
            ]
            assert found.ask == settles[0], (votes, waiting)


def test_examples() -> None:
    assert standing((), 3).ask == 2
    assert standing((0, 0), 1).winner == 0
    assert not standing((0, 1), 1).final
    assert standing((0, 1), 0) == standing((0, 1, 2), 0)
    assert standing((0, None), 0, quorum=2).winner is None
    assert standing((0, None), 0, quorum=1).winner == 0


def test_equal_answers_share_the_number_of_the_first() -> None:
    answers = ["a", "b", "a", "c", "b", "a"]
    same = [[other == answer for other in answers[:n]] for n, answer in enumerate(answers)]
    assert grouped(same) == [0, 1, 0, 3, 1, 0]
    assert grouped([]) == []
