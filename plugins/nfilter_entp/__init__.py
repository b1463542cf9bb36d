"""ENTP (arXiv 2510.23160): purge low-quality samples by rules, rate and curate them, pair them, and mix the pairs."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stages in the order in which a recipe uses them."""
    from nfilter_entp.long_tail import LongTail
    from nfilter_entp.mixing.mix import Mix
    from nfilter_entp.mixing.pair import Pair
    from nfilter_entp.purging.purge import Purge
    from nfilter_entp.rating.curate import Curate
    from nfilter_entp.rating.rate import Rate

    return [Rate, Curate, Purge, LongTail, Pair, Mix]
