"""Gradient norms: samples whose loss has a large gradient, which wrong labels have (after arXiv 2107.07075 and 2001.10528)."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    from nfilter_gradnorm.score import Score

    return [Score]
