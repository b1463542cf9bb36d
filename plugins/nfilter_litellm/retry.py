"""When a call is tried again: exponential backoff with jitter, seeded, so that two runs wait alike."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """``attempts`` a call at most; one that a 429 turned away is no attempt, but has ``patience`` seconds in all."""

    attempts: int = 5
    patience: float = 900.0
    base: float = 0.5
    most: float = 30.0

    def delay(self, key: str, number: int, after: float | None = None) -> float:
        """Seconds before attempt ``number`` + 1 of the call ``key``; never less than the server asked for."""
        spread = random.Random(f"{key}\x1f{number}").random()
        delay = min(self.most, self.base * 2.0 ** min(number - 1, 30)) * (0.5 + spread / 2)
        # Those that were told the same second do not all come back in it.
        return delay if after is None else max(delay, after * (1 + spread / 10))
