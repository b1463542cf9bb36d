"""Retry delays: exponential backoff with seeded jitter, so repeated runs wait equally long."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy: at most ``attempts`` per call; 429 replies are not counted but end after ``patience`` seconds."""

    attempts: int = 5
    patience: float = 900.0
    base: float = 0.5
    max_delay: float = 30.0

    def delay(self, key: str, number: int, after: float | None = None) -> float:
        """Return the seconds before attempt ``number`` + 1 of the call ``key``; at least ``after`` if set."""
        jitter = random.Random(f"{key}\x1f{number}").random()
        delay = min(self.max_delay, self.base * 2.0 ** min(number - 1, 30)) * (0.5 + jitter / 2)
        # Spread calls that received the same Retry-After.
        return delay if after is None else max(delay, after * (1 + jitter / 10))
