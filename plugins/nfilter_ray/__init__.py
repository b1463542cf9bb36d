"""The executor `ray`: the ranks of a run as actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl
from nfilter_ray.executor import RayExecutor


@hookimpl
def nfilter_executors() -> Iterable[type]:
    """Register the executor."""
    return (RayExecutor,)
