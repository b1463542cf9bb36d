"""Metrics of a run on data whose true labels are known: detection, relabelling, views, and what was spent."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl


@hookimpl
def nfilter_metrics() -> Iterable[type]:
    """The four metrics of this plugin."""
    from nfilter_metrics.detection import Detection
    from nfilter_metrics.labels import Relabel, Views
    from nfilter_metrics.spending import Calls

    return (Detection, Relabel, Views, Calls)
