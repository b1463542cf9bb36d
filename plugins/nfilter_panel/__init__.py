"""A panel of reviewers: independent answers, one exchange of reasons, then a vote or a chair."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    from nfilter_panel.review import Review

    return [Review]
