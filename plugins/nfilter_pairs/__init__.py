"""Preference pairs: views that say which response is better, and decisions about pairs that look flipped."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the views, then the stage that decides."""
    from nfilter_pairs.decide import Decide
    from nfilter_pairs.judge import Judge
    from nfilter_pairs.neighbours import Neighbours
    from nfilter_pairs.reward import Reward

    return [Judge, Reward, Neighbours, Decide]
