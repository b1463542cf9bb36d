"""ENTP (arXiv 2510.23160): low-quality samples purged by rules, rated and curated, paired, and mixed into new ones."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """All stages of the method, in the order in which a recipe uses them."""
    return []
