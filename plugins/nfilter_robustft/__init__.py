"""RobustFT (arXiv 2412.14922): views, check, context relabelling, review, selection, and a random control."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stages in recipe order, then the random control and views from columns."""
    from nfilter_robustft.answer import Answer
    from nfilter_robustft.check import Check
    from nfilter_robustft.classifier import Classifier
    from nfilter_robustft.column import Column
    from nfilter_robustft.control import Random
    from nfilter_robustft.neighbors import Neighbors
    from nfilter_robustft.reason import Reason
    from nfilter_robustft.relabel import Relabel
    from nfilter_robustft.review import Review
    from nfilter_robustft.select import Select
    from nfilter_robustft.settle import Settle

    return [
        Answer,
        Reason,
        Neighbors,
        Classifier,
        Check,
        Settle,
        Relabel,
        Review,
        Select,
        Random,
        Column,
    ]
