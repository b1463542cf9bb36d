"""How long several servers take per answer: measured from recent calls, those that are still running included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MEMORY: Final = 30.0
"""Usual answers' time after which a measurement has 1/e of its weight."""
_LAST: Final = 50
"""Answers over which the usual time is averaged."""
_STEP: Final = 1.25
"""Ratio of times below which two servers may count as equal: answers differ in length."""


@dataclass(slots=True, eq=False)
class Pace:
    """Calls of one server, up to the time ``at``: those that run, and weighted sums of recent seconds in calls and recent answers.

    ``used`` numbers its last call.
    """

    running: int = 0
    used: int = 0
    seconds: float = 0.0
    answers: float = 0.0
    at: float = 0.0

    def advance(self, now: float, memory: float) -> None:
        """Add the time that running calls have taken, and let what is older count less."""
        kept = math.exp((self.at - now) / memory)
        self.seconds = self.seconds * kept + self.running * memory * (1.0 - kept)
        self.answers *= kept
        self.at = now


class Paces:
    """The paces of several servers, and which of them is to take the next call.

    A server's time per answer is the seconds that its recent calls have taken, divided by its answers, with one usual answer added to
    both. So a server that is slower than others has fewer calls at once, one that does not answer gets none after its first
    ones, and one that is left alone is tried again as its past counts less. No call is made twice.
    """

    def __init__(self) -> None:
        self._usual: float | None = None
        self._answered = 0
        self._calls = 0

    def start(self, pace: Pace, now: float) -> None:
        """Record the start of a call."""
        self._advance(pace, now)
        self._calls += 1
        pace.used = self._calls
        pace.running += 1

    def end(self, pace: Pace, now: float, seconds: float, *, answered: bool, slow: bool) -> None:
        """Record the end of a call after ``seconds``; ``slow``: it was given up because it took too long."""
        self._advance(pace, now)
        pace.running -= 1
        if answered:
            pace.answers += 1.0
            self._answered += 1
            share = 1.0 / min(self._answered, _LAST)
            usual = self._usual or seconds
            self._usual = usual + share * (seconds - usual)
        elif not slow:
            # A call that failed says nothing about the time of an answer.
            pace.seconds = max(0.0, pace.seconds - seconds)

    def least_loaded(self, paces: Sequence[Pace], now: float) -> Pace:
        """Return the server that is expected to answer one more call first; of equal ones the longest without a call."""
        return min(paces, key=lambda pace: self._load(pace, now))

    def _load(self, pace: Pace, now: float) -> tuple[float, int]:
        self._advance(pace, now)
        waiting = pace.running + 1.0
        if not self._usual:
            return waiting, pace.used
        seconds = (pace.seconds + self._usual) / (pace.answers + 1.0)
        steps = round(math.log(seconds / self._usual, _STEP))
        return waiting * _STEP**steps, pace.used

    def _advance(self, pace: Pace, now: float) -> None:
        pace.advance(now, self._memory)

    @property
    def _memory(self) -> float:
        # Before the first answer there is no usual time, and nothing to compare.
        return _MEMORY * (self._usual or 120.0)
