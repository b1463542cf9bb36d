"""XTF (arXiv 2602.14536): three attributes of response tokens, and a mask of the tokens that are noise by any of them."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the three attribute stages and the union stage, which is also the random control."""
    from nfilter_xtf.mask import Mask
    from nfilter_xtf.novelty import Novelty
    from nfilter_xtf.reasoning import Reasoning
    from nfilter_xtf.relevance import Relevance

    return [Reasoning, Novelty, Relevance, Mask]
