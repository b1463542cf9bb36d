from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfilter_io.sources import Csv, Datasets, Json, JsonLines, Parquet

SOURCES = {cls.name: cls for cls in (JsonLines, Json, Csv, Parquet, Datasets)}
Make = Callable[..., Any]


def write_rows(path: Path, kind: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows as a file of the given kind; cells that CSV cannot represent are written as JSON text."""
    if kind == "jsonl":
        path = path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "json":
        path = path / "data.json"
        path.write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
    elif kind == "csv":
        path = path / "data.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(as_csv(row) for row in rows)
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = path / "data.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2)
    else:
        import datasets

        path = path / "folder"
        datasets.Dataset.from_list([dict(row) for row in rows]).save_to_disk(path)
    return path


def as_csv(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the row as CSV represents it: text cells only."""
    return {
        key: value
        if isinstance(value, str)
        else ""
        if value is None
        else json.dumps(value, ensure_ascii=False)
        for key, value in row.items()
    }


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a factory of sources over rows: ``make("jsonl", rows, shape="auto", ...)``."""

    def build(kind: str, rows: Sequence[Mapping[str, Any]], **config: Any) -> Any:
        path = write_rows(tmp_path, kind, rows)
        return opened(kind, path, **config)

    return build


def opened(kind: str, path: Path, **config: Any) -> Any:
    cls = SOURCES[kind]
    return cls(cls.Config(path=path.name, **config), path.parent)


@pytest.fixture
def over(tmp_path: Path) -> Make:
    """Return a factory of sources over bytes: ``over("jsonl", b"...")``."""

    def build(kind: str, data: bytes, **config: Any) -> Any:
        path = tmp_path / f"data{SOURCES[kind].suffixes[0]}"
        path.write_bytes(data)
        return opened(kind, path, **config)

    return build


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, Sequence[Mapping[str, Any]]], Path]:
    return lambda kind, rows: write_rows(tmp_path, kind, rows)


@pytest.fixture
def csv_cells() -> Callable[[Mapping[str, Any]], dict[str, str]]:
    return as_csv
