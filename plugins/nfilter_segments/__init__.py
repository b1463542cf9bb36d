"""Segments of reasoning (Wang et al., arXiv 2602.00425): train on those that matter for the answer, and mask the others."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    from nfilter_segments.mask import Mask

    return [Mask]
