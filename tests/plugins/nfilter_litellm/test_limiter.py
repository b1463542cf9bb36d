"""The concurrency level by outcomes of calls: when it doubles, increases, decreases, stays and waits."""

from __future__ import annotations

from nfilter_litellm.limiter import MAX_LEVEL, START_LEVEL, Limiter


def round_of(limiter: Limiter, seconds: float = 1.0) -> None:
    """Start as many calls as the level allows, and answer them."""
    tickets = [limiter.start() for _ in range(limiter.level)]
    for ticket in tickets:
        limiter.answered(ticket, seconds, full=True)


def levels(limiter: Limiter, rounds: int, seconds: float = 1.0) -> list[int]:
    levels_by_round = [limiter.level]
    for _ in range(rounds):
        round_of(limiter, seconds)
        levels_by_round.append(limiter.level)
    return levels_by_round


def test_it_doubles_until_the_first_429_then_adds_a_32nd_per_round_and_a_429_takes_15_percent() -> (
    None
):
    limiter = Limiter()
    assert START_LEVEL == 20
    assert levels(limiter, 3) == [20, 40, 80, 160]
    assert limiter.limited(limiter.start()) == 0
    assert limiter.level == 136
    assert levels(limiter, 4) == [136, 141, 146, 151, 156]  # 160 // 32 per round
    limiter.limited(limiter.start())
    assert limiter.level == 132
    assert levels(limiter, 2) == [132, 136, 140]


def test_the_maximum_level_is_never_exceeded() -> None:
    assert levels(Limiter(), 7)[-1] == MAX_LEVEL


def test_one_round_reduces_the_level_once_for_any_number_of_429s() -> None:
    limiter = Limiter()
    tickets = [limiter.start() for _ in range(20)]
    assert [limiter.limited(ticket) for ticket in tickets] == [0] * 20
    assert limiter.level == 17
    # The next calls start after the reduction: some are rejected while others are running.
    more = [limiter.start() for _ in range(17)]
    assert limiter.limited(more[0]) == 0
    assert limiter.level == 17
    limiter.answered(more[1], 1.0, full=False)
    assert limiter.limited(more[2]) == 0
    assert limiter.level == 14


def test_a_429_of_a_call_from_before_an_increase_still_reduces_the_level() -> None:
    limiter = Limiter()
    early = limiter.start()
    round_of(limiter)
    assert limiter.level == 40
    limiter.limited(early)
    assert limiter.level == 34


def test_5xx_and_timeouts_stop_growth_and_reduce_nothing() -> None:
    limiter = Limiter()
    for _ in range(10):
        tickets = [limiter.start() for _ in range(20)]
        for ticket in tickets[:9]:
            limiter.answered(ticket, 1.0, full=True)
        limiter.strained()
    assert limiter.level == 20
    round_of(limiter)
    assert limiter.level == 40


def test_it_does_not_grow_while_slots_are_free() -> None:
    limiter = Limiter()
    for _ in range(100):
        limiter.answered(limiter.start(), 1.0, full=False)
    assert limiter.level == 20


def test_a_server_that_queues_gets_no_more_calls_than_it_processes() -> None:
    limiter = Limiter()
    for _ in range(6):
        round_of(limiter, seconds=limiter.level / 30)  # 30 answers per second at any level
    assert limiter.level == 20
    limiter.begin()
    round_of(limiter, seconds=0.1)
    round_of(limiter, seconds=0.1)
    assert limiter.level == 80


def test_an_outage_is_distinguished_from_a_few_429s_and_probed_with_single_calls() -> None:
    limiter = Limiter()
    for ticket in [limiter.start() for _ in range(20)]:
        limiter.limited(ticket)
    calls = [limiter.start() for _ in range(16)]
    assert [limiter.limited(ticket) for ticket in calls[:7]] == [0] * 7
    assert limiter.capacity == 17  # 7 of 16 rejected, the others may still be answered
    assert limiter.limited(calls[7]) == 1
    assert limiter.capacity == 1
    assert limiter.limited(calls[8]) == 0  # started before the outage was detected
    assert limiter.limited(limiter.start()) == 2
    assert limiter.limited(limiter.start()) == 3
    limiter.answered(limiter.start(), 1.0, full=True)
    assert limiter.capacity == 17  # at once: an outage does not change the level


def test_a_fixed_level_is_constant() -> None:
    limiter = Limiter(7)
    assert levels(limiter, 5) == [7] * 6
    for ticket in [limiter.start() for _ in range(7)]:
        limiter.limited(ticket)
    assert limiter.level == 7
