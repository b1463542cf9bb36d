"""One rank as an actor. Ray imports this module in the process of the actor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nfilter import run_rank


class RankActor:
    """Runs one rank in the process of the actor, so that both end together."""

    def run(self, job: Mapping[str, Any], rank: int) -> dict[str, Any]:
        """Return how the rank ended."""
        return run_rank(job, rank)
