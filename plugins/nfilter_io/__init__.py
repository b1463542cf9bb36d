"""Sources: read and write rows of JSON Lines, JSON, CSV, Parquet, local ``datasets`` folders and the hub."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl


@hookimpl
def nfilter_sources() -> Iterable[type]:
    """Return the six sources of this plugin."""
    from nfilter_io.hub import Hub
    from nfilter_io.sources import Csv, Datasets, Json, JsonLines, Parquet

    return (JsonLines, Json, Csv, Parquet, Datasets, Hub)
