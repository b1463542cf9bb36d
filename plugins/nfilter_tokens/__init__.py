"""Token cleaning (arXiv 2502.01968): scores of response tokens, and which of them stay in the loss."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """All stages: those that score, those that choose, and a random control."""
    from nfilter_tokens.evolve import SelfEvolve
    from nfilter_tokens.excess import ExcessLoss
    from nfilter_tokens.keep import KeepTop, RandomTokens
    from nfilter_tokens.threshold import AutoThreshold

    return [ExcessLoss, KeepTop, AutoThreshold, SelfEvolve, RandomTokens]
