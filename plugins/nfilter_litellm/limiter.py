"""Adaptive concurrency: find the number of parallel calls that the server accepts."""

from __future__ import annotations

START_LEVEL = 20
MAX_LEVEL = 512
_DECREASE = 0.85
_MIN_SPEEDUP = 1.2
_OUTAGE_REJECTIONS = 8


class Limiter:
    """Concurrency level, adapted to the outcomes of calls that are reported to it.

    The level doubles each round until the first 429. After it, a round adds 1/32 of the level at the 429, and a 429
    reduces the level by 15 percent, at most once per round. A round ends when as many calls as the level, started since
    it was set, are answered. 5xx and timeouts restart the round without a change of the level.

    A server that queues never replies 429: a doubling that yields less than 20 percent more answers per second is
    reverted, and ``begin`` allows the next one. If most calls after a reduction are rejected, it is an outage: the caller
    waits, and then single calls probe for its end.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.level = START_LEVEL if fixed is None else fixed
        self.probing = False
        self._fixed = fixed is not None
        self._epoch = 0
        self._cut_epoch = 0
        self._limited = False
        self._doubling_failed = False
        self._step = 1
        self._previous: tuple[int, float] | None = None
        # In this round:
        self._answers = 0
        self._seconds = 0.0
        # Since the last cut:
        self._started = 0
        self._rejected = 0
        self._answered_since_cut = True
        self._outages = 0

    @property
    def capacity(self) -> int:
        """Return the maximum number of concurrent calls now: 1 during an outage."""
        return 1 if self.probing else self.level

    def begin(self) -> None:
        """Start a new set of calls, possibly of another kind."""
        self._doubling_failed = False
        self._previous = None
        self._restart()

    def start(self) -> int:
        """Record the start of a call; return its ticket, which is passed with its outcome."""
        self._started += 1
        return self._epoch

    def answered(self, ticket: int, seconds: float, *, full: bool) -> None:
        """Record an answer after ``seconds``; ``full``: all slots were in use."""
        if ticket >= self._cut_epoch:
            self._answered_since_cut = True
            self._outages = 0
            self.probing = False
        if ticket != self._epoch or not full or self._fixed:
            return
        self._answers += 1
        self._seconds += seconds
        # Half a round suffices while doubling: most time is lost in the first rounds.
        if self._answers * (1 if self._limited else 2) >= self.level:
            self._grow()

    def strained(self) -> None:
        """Record a 5xx or a timeout: this round does not raise the level."""
        self._answers, self._seconds = 0, 0.0

    def limited(self, ticket: int) -> int:
        """Record a 429; return 0, or the number of consecutive outages if the server rejects most calls.

        Calls that started before the last reduction are ignored.
        """
        if ticket < self._cut_epoch:
            return 0
        self._rejected += 1
        if self._answered_since_cut:
            if not self._fixed:
                self._step = max(1, self.level // 32)
                self.level = max(1, int(self.level * _DECREASE))
                self._limited = True
            self._begin_window()
            return 0
        many = self._rejected >= min(_OUTAGE_REJECTIONS, self.capacity)
        if many and 2 * self._rejected >= self._started:
            self._outages += 1
            self.probing = True
            self._begin_window()
            return self._outages
        return 0

    def _begin_window(self) -> None:
        self._restart()
        self._cut_epoch = self._epoch
        self._started = self._rejected = 0
        self._answered_since_cut = False

    def _grow(self) -> None:
        rate = self.level * self._answers / max(self._seconds, 1e-9)
        if self._limited:
            self._set(self.level + self._step)
        elif self._previous is not None and rate < _MIN_SPEEDUP * self._previous[1]:
            level, self._previous, self._doubling_failed = self._previous[0], None, True
            self._set(level)
        elif not self._doubling_failed:
            self._previous = (self.level, rate)
            self._set(2 * self.level)
        else:
            self._restart()

    def _set(self, level: int) -> None:
        self.level = min(level, MAX_LEVEL)
        self._restart()

    def _restart(self) -> None:
        self._epoch += 1
        self._answers, self._seconds = 0, 0.0
