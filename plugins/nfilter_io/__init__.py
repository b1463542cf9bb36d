"""Sources: read and write rows of JSON Lines, JSON, CSV, Parquet and local ``datasets`` folders."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl


@hookimpl
def nfilter_sources() -> Iterable[type]:
    """Return the five sources of this plugin."""
    from nfilter_io.sources import Csv, Datasets, Json, JsonLines, Parquet

    return (JsonLines, Json, Csv, Parquet, Datasets)
