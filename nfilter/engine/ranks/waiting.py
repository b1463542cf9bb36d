"""Waiting for another rank: polling with a bounded interval, with a line in the log when it takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_FIRST, _LONGEST = 0.02, 2.0  # seconds between two looks
_QUIET, _RARELY = (
    30.0,
    600.0,
)  # seconds before the first line in the log, and between later ones at most


@dataclass(frozen=True, slots=True)
class Waiting:
    """``say`` receives the lines for the log; ``clock`` and ``now`` are seconds, of any start and since 1970."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def until(self, look: Callable[[], T | None], what: Callable[[], str]) -> T:
        """Call ``look`` until it returns a value. ``what`` completes "waits for ..." for the log.

        An interrupt ends it: KeyboardInterrupt is raised in ``sleep``.
        """
        since, start = self.now(), self.clock()
        pause, line = _FIRST, _QUIET
        while (found := look()) is None:
            waited = self.clock() - start
            if waited >= line:
                at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(since))
                self.say(f"waits for {what()}, since {at}")
                line = waited + min(_RARELY, waited)
            self.sleep(pause)
            pause = min(_LONGEST, 1.5 * pause)
        return found
