"""Metrics for runs with known truth: detection, also by view, relabelling, view accuracy, model calls and token noise."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl


@hookimpl
def nfilter_metrics() -> Iterable[type]:
    """Return the metrics of this plugin."""
    from nfilter_metrics.classes import Classes
    from nfilter_metrics.detection import Detection
    from nfilter_metrics.label_accuracy import Relabel, Views
    from nfilter_metrics.model_calls import Calls
    from nfilter_metrics.tokens import TokenNoise
    from nfilter_metrics.view_flags import ViewFlags

    return (Detection, Relabel, Classes, Views, ViewFlags, Calls, TokenNoise)
