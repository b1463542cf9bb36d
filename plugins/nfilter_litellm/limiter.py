"""How many calls are under way at a time: as many as the server takes, found out by trying."""

from __future__ import annotations

START = 20
CEILING = 512
_CUT = 0.85
_WORTH = 1.2
_OUTAGE = 8


class Limiter:
    """The level of concurrency. It holds no calls: it is told what became of them, and says how many may be out.

    The level doubles each round until the first 429. From then on a round adds a little (a 32nd of where the 429 came),
    and a 429 takes 15 percent off, once a round. A round ends when as many calls as the level says, begun since it was
    set, have been answered. 5xx and timeouts start the round anew: nothing grows meanwhile, and nothing is cut.

    A server that queues never says 429: a doubling that brings less than a fifth more answers a second is taken back,
    and ``begin`` lets the next one be tried. Where most of what is begun after a cut is turned away, that is an outage:
    the caller waits, and then one call at a time looks whether it is over.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.level = START if fixed is None else fixed
        self.probing = False
        self._fixed = fixed is not None
        self._epoch = 0
        self._cut_at = 0
        self._limited = False
        self._held = False
        self._step = 1
        self._before: tuple[int, float] | None = None
        # Of this round:
        self._answers = 0
        self._seconds = 0.0
        # Since the last cut:
        self._begun = 0
        self._turned_away = 0
        self._heard = True
        self._outages = 0

    @property
    def room(self) -> int:
        """How many calls may be out now."""
        return 1 if self.probing else self.level

    def begin(self) -> None:
        """A new set of calls, perhaps of another kind."""
        self._held = False
        self._before = None
        self._restart()

    def starts(self) -> int:
        """A call begins. Returns its ticket, which comes back with what became of it."""
        self._begun += 1
        return self._epoch

    def answered(self, ticket: int, seconds: float, *, full: bool) -> None:
        """A call was answered after ``seconds``; ``full``: as many were out as may be."""
        if ticket >= self._cut_at:
            self._heard = True
            self._outages = 0
            self.probing = False
        if ticket != self._epoch or not full or self._fixed:
            return
        self._answers += 1
        self._seconds += seconds
        # While it doubles, half a round has told enough: the first rounds are where time is lost.
        if self._answers * (1 if self._limited else 2) >= self.level:
            self._grow()

    def strained(self) -> None:
        """A 5xx or a timeout: this round does not grow."""
        self._answers, self._seconds = 0, 0.0

    def limited(self, ticket: int) -> int:
        """A call was turned away with a 429. Returns 0, or how many times in a row the server let nobody in.

        What began before the last cut says nothing new.
        """
        if ticket < self._cut_at:
            return 0
        self._turned_away += 1
        if self._heard:
            if not self._fixed:
                self._step = max(1, self.level // 32)
                self.level = max(1, int(self.level * _CUT))
                self._limited = True
            self._mark()
            return 0
        enough = self._turned_away >= min(_OUTAGE, self.room)
        if enough and 2 * self._turned_away >= self._begun:
            self._outages += 1
            self.probing = True
            self._mark()
            return self._outages
        return 0

    def _mark(self) -> None:
        self._restart()
        self._cut_at = self._epoch
        self._begun = self._turned_away = 0
        self._heard = False

    def _grow(self) -> None:
        rate = self.level * self._answers / max(self._seconds, 1e-9)
        if self._limited:
            self._set(self.level + self._step)
        elif self._before is not None and rate < _WORTH * self._before[1]:
            level, self._before, self._held = self._before[0], None, True
            self._set(level)
        elif not self._held:
            self._before = (self.level, rate)
            self._set(2 * self.level)
        else:
            self._restart()

    def _set(self, level: int) -> None:
        self.level = min(level, CEILING)
        self._restart()

    def _restart(self) -> None:
        self._epoch += 1
        self._answers, self._seconds = 0, 0.0
