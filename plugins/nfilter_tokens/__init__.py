"""Token cleaning (arXiv 2502.01968): score response tokens and select those that stay in the loss."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stages that score, the stages that select, and a random control."""
    from nfilter_tokens.evolve import SelfEvolve
    from nfilter_tokens.excess import ExcessLoss
    from nfilter_tokens.keep import KeepTop, RandomTokens
    from nfilter_tokens.threshold import AutoThreshold

    return [ExcessLoss, KeepTop, AutoThreshold, SelfEvolve, RandomTokens]
