"""The level of concurrency, told what became of calls: when it doubles, adds, cuts, stands still and waits."""

from __future__ import annotations

from nfilter_litellm.limiter import CEILING, START, Limiter


def round_of(limiter: Limiter, seconds: float = 1.0) -> None:
    """As many calls as the level allows begin together and are answered."""
    tickets = [limiter.starts() for _ in range(limiter.level)]
    for ticket in tickets:
        limiter.answered(ticket, seconds, full=True)


def levels(limiter: Limiter, rounds: int, seconds: float = 1.0) -> list[int]:
    found = [limiter.level]
    for _ in range(rounds):
        round_of(limiter, seconds)
        found.append(limiter.level)
    return found


def test_it_doubles_until_the_first_429_then_adds_a_32nd_a_round_and_a_429_takes_15_percent() -> (
    None
):
    limiter = Limiter()
    assert START == 20
    assert levels(limiter, 3) == [20, 40, 80, 160]
    assert limiter.limited(limiter.starts()) == 0
    assert limiter.level == 136
    assert levels(limiter, 4) == [136, 141, 146, 151, 156]  # 160 // 32 a round
    limiter.limited(limiter.starts())
    assert limiter.level == 132
    assert levels(limiter, 2) == [132, 136, 140]


def test_no_ceiling_is_passed() -> None:
    assert levels(Limiter(), 7)[-1] == CEILING


def test_one_round_cuts_once_however_many_of_its_calls_are_turned_away() -> None:
    limiter = Limiter()
    tickets = [limiter.starts() for _ in range(20)]
    assert [limiter.limited(ticket) for ticket in tickets] == [0] * 20
    assert limiter.level == 17
    # The next ones begin after the cut: some are turned away while others are under way.
    more = [limiter.starts() for _ in range(17)]
    assert limiter.limited(more[0]) == 0
    assert limiter.level == 17
    limiter.answered(more[1], 1.0, full=False)
    assert limiter.limited(more[2]) == 0
    assert limiter.level == 14


def test_a_429_of_before_a_growth_still_cuts() -> None:
    limiter = Limiter()
    early = limiter.starts()
    round_of(limiter)
    assert limiter.level == 40
    limiter.limited(early)
    assert limiter.level == 34


def test_5xx_and_timeouts_freeze_growth_and_cut_nothing() -> None:
    limiter = Limiter()
    for _ in range(10):
        tickets = [limiter.starts() for _ in range(20)]
        for ticket in tickets[:9]:
            limiter.answered(ticket, 1.0, full=True)
        limiter.strained()
    assert limiter.level == 20
    round_of(limiter)
    assert limiter.level == 40


def test_it_does_not_grow_while_there_is_room() -> None:
    limiter = Limiter()
    for _ in range(100):
        limiter.answered(limiter.starts(), 1.0, full=False)
    assert limiter.level == 20


def test_a_server_that_queues_is_not_given_more_than_it_works_on() -> None:
    limiter = Limiter()
    for _ in range(6):
        round_of(limiter, seconds=limiter.level / 30)  # 30 answers a second, whatever is asked
    assert limiter.level == 20
    limiter.begin()
    round_of(limiter, seconds=0.1)
    round_of(limiter, seconds=0.1)
    assert limiter.level == 80


def test_an_outage_is_told_from_a_few_429s_and_one_call_at_a_time_looks_for_its_end() -> None:
    limiter = Limiter()
    for ticket in [limiter.starts() for _ in range(20)]:
        limiter.limited(ticket)
    calls = [limiter.starts() for _ in range(16)]
    assert [limiter.limited(ticket) for ticket in calls[:7]] == [0] * 7
    assert limiter.room == 17  # 7 of 16 turned away, the others may still be answered
    assert limiter.limited(calls[7]) == 1
    assert limiter.room == 1
    assert limiter.limited(calls[8]) == 0  # of before the outage was known
    assert limiter.limited(limiter.starts()) == 2
    assert limiter.limited(limiter.starts()) == 3
    limiter.answered(limiter.starts(), 1.0, full=True)
    assert limiter.room == 17  # at once: the outage says nothing about the level


def test_a_fixed_level_stays() -> None:
    limiter = Limiter(7)
    assert levels(limiter, 5) == [7] * 6
    for ticket in [limiter.starts() for _ in range(7)]:
        limiter.limited(ticket)
    assert limiter.level == 7
