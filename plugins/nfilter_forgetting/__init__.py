"""Forgetting (Taheri et al., arXiv 2508.04329): learn the tokens with a high score, and unlearn the others."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage that tells positive from negative tokens."""
    from nfilter_forgetting.split import Split

    return [Split]


@hookimpl
def nfilter_losses() -> list[type]:
    """Return the loss with signed weights."""
    from nfilter_forgetting.loss import Forgetting

    return [Forgetting]
