"""The vote of a panel: who leads, whether a vote can still change that, and how many to ask next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a vote.

    Attributes:
        winner: The answer with more than half of the votes cast that no waiting vote can change; None if there is none.
        final: Whether no waiting vote can change the outcome.
        ask: How many of the waiting voters to ask next: the fewest that can settle the vote; 0 if it is final.
    """

    winner: int | None
    final: bool
    ask: int


def standing(votes: Sequence[int | None], waiting: int, quorum: int = 1) -> Standing:
    """Return the state of a vote.

    Args:
        votes: The answer that each voter chose, as a number; None for an abstention.
        waiting: Voters that were not asked yet. Each may choose any answer, or abstain.
        quorum: Votes cast that a decision needs.
    """
    cast = [vote for vote in votes if vote is not None]
    leader, most = Counter(cast).most_common(1)[0] if cast else (None, 0)
    total = len(cast) + waiting
    if total < quorum:
        return Standing(None, final=True, ask=0)
    if len(cast) >= quorum and 2 * most > total:
        return Standing(leader, final=True, ask=0)
    # The waiting votes cannot make a majority even if all are for the leader.
    if 2 * (most + waiting) <= total:
        return Standing(None, final=True, ask=0)
    if waiting == 0:
        return Standing(leader if 2 * most > total else None, final=True, ask=0)
    needed = max(total // 2 + 1 - most, quorum - len(cast), 1)
    return Standing(None, final=False, ask=min(waiting, needed))


def grouped(same: Sequence[Sequence[bool]]) -> list[int]:
    """Number answers so that equal ones share a number: that of the first that they equal.

    ``same[i][j]``, for j < i, says whether answer i equals answer j.
    """
    numbers: list[int] = []
    for number, row in enumerate(same):
        first = next((other for other, equal in enumerate(row) if equal), number)
        numbers.append(numbers[first] if first < number else number)
    return numbers
