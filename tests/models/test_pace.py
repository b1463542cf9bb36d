"""How fast a model answers, how long that leaves, what is said of it and what is kept: by a clock that the test turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfilter import Completion
from nfilter.api.durations import duration
from nfilter.api.stages import Calls
from nfilter.models.pace import PACES, Pace, Rate, paces, time_left_text


class Log:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)

    def warning(self, text: str) -> None:
        self.said.append(text)


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


ANSWER = Completion("so", prompt_tokens=100, completion_tokens=30)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paced(clock: Clock, rows: int = 1000, usual: float = 1.0, file: Path | None = None) -> Pace:
    calls = [Calls("expert", "a/b", 64, usual=usual), Calls("other", "a/b", 64)]
    return Pace("01-x", rows, calls, Log(), file, clock=clock)


def burst(pace: Pace, clock: Clock, seconds: float, answers: int, first: int = 0) -> None:
    """So many answers together, after so many seconds."""
    clock.now += seconds
    for number in range(answers):
        pace.answered("expert", f"key {first + number}", ANSWER)


def test_the_first_burst_has_the_loading_in_it_and_counts_only_while_it_is_the_only_one(
    clock: Clock,
) -> None:
    pace = paced(clock)
    pace.begin("expert")
    burst(pace, clock, 60, 20)
    pace.end("expert")
    assert pace.rate("expert") == Rate(20, 2000, 600, 60.0)
    pace.begin("expert")
    burst(pace, clock, 10, 20, first=20)
    burst(pace, clock, 10, 20, first=40)
    pace.end("expert")
    assert pace.rate("expert") == Rate(40, 4000, 1200, 20.0)


def test_what_is_left_is_the_usual_calls_of_all_rows_at_the_rate(clock: Clock) -> None:
    pace = paced(clock, rows=1000, usual=2)
    assert pace.left("expert") is None
    pace.begin("expert")
    burst(pace, clock, 5, 10)
    burst(pace, clock, 20, 40, first=10)
    pace.end("expert")
    assert pace.left("expert") == pytest.approx((2000 - 50) * 0.5)
    clock.now += 3600  # nobody is asked
    pace.begin("expert")
    assert pace.left("expert") == pytest.approx((2000 - 50) * 0.5)


def test_a_call_that_comes_again_from_the_journal_is_no_further_progress(clock: Clock) -> None:
    pace = paced(clock)
    pace.begin("expert")
    burst(pace, clock, 5, 10)
    burst(pace, clock, 20, 40, first=10)
    pace.end("expert")
    before = pace.left("expert")
    pace.known("expert", [f"key {number}" for number in range(50)])
    assert pace.left("expert") == before
    pace.known("expert", ["another"])
    assert pace.left("expert") == pytest.approx(949 * 0.5)


def test_a_long_stage_is_told_once_and_again_when_it_got_twice_as_long(clock: Clock) -> None:
    pace = paced(clock, rows=10_000)
    log = pace.log
    assert isinstance(log, Log)
    pace.begin("expert")
    burst(pace, clock, 5, 10)
    for number in range(1, 6):
        burst(pace, clock, 20, 40, first=100 * number)
    assert len(log.said) == 1
    assert log.said[0].startswith(
        "01-x: about 83 min of calls to expert left, at 60 tokens/s (0.5 s per call, measured on 40). "
    )
    for number in range(6, 40):
        burst(pace, clock, 80, 40, first=100 * number)
    assert len(log.said) == 2


def test_a_short_stage_is_not_told(clock: Clock) -> None:
    pace = paced(clock, rows=1000)
    pace.begin("expert")
    burst(pace, clock, 5, 10)
    burst(pace, clock, 20, 40, first=10)
    pace.end("expert")
    log = pace.log
    assert isinstance(log, Log)
    assert log.said == []


def test_what_to_do_when_it_takes_too_long() -> None:
    assert time_left_text(7800, Rate(100, 0, 31_000, 100.0), "expert") == (
        "about 2 h 10 min of calls to expert left, at 310 tokens/s (1 s per call, measured on 100). Stop it (Ctrl-C; no answer is lost) "
        "and try fewer rows (--limit N), fewer rounds:, a smaller max_tokens:, or a faster model"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45.2, "45 s"), (720, "12 min"), (7800, "2 h 10 min"), (7190, "2 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_was_measured_is_kept_and_read_by_stage_and_damage_is_no_measure(
    tmp_path: Path, clock: Clock
) -> None:
    file = tmp_path / PACES
    assert paces(file) == {}
    short = paced(clock, file=file)
    short.begin("expert")
    burst(short, clock, 1, 3)
    short.end("expert")
    short.keep()
    assert not file.exists()
    pace = paced(clock, file=file)
    pace.begin("expert")
    burst(pace, clock, 10, 20)
    pace.end("expert")
    pace.keep()
    record = {"calls": 20, "prompt_tokens": 2000, "completion_tokens": 600, "seconds": 10.0}
    assert paces(file) == {"01-x": {"expert": {**record, "of": "expert"}}}
    file.write_text(file.read_text().replace("2000", "2001"))
    assert paces(file) == {}
