"""Metrics of a run on data of which the truth is known: detection, relabelling, views, tokens, and what was spent."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl


@hookimpl
def nfilter_metrics() -> Iterable[type]:
    """The metrics of this plugin."""
    from nfilter_metrics.detection import Detection
    from nfilter_metrics.labels import Relabel, Views
    from nfilter_metrics.spending import Calls
    from nfilter_metrics.tokens import TokenNoise

    return (Detection, Relabel, Views, Calls, TokenNoise)
