"""Sources: rows of JSON Lines, JSON, CSV, Parquet and local ``datasets`` folders, in and out again."""

from __future__ import annotations

from collections.abc import Iterable

from nfilter import hookimpl


@hookimpl
def nfilter_sources() -> Iterable[type]:
    """The five sources of this plugin."""
    from nfilter_io.sources import Csv, Datasets, Json, JsonLines, Parquet

    return (JsonLines, Json, Csv, Parquet, Datasets)
