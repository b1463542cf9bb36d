"""The sources: one class per container format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from nfilter import JSON, Row, Sample, SourceError, StageConfig, Unreadable
from nfilter_io.config import CsvConfig, DatasetsConfig, JsonConfig, JsonLinesConfig, ParquetConfig
from nfilter_io.csv_rows import csv_rows
from nfilter_io.rows import Rows
from nfilter_io.tables import dataset_classes, dataset_rows, parquet_classes, parquet_rows
from nfilter_io.text_files import encoding_problem, json_lines, json_list


def _file_problems(path: Path, *, folder: bool = False) -> list[str]:
    if not path.exists():
        return [f"{path}: there is no such {'folder' if folder else 'file'}; check `path`"]
    if folder != path.is_dir():
        return [f"{path}: is a {'file, not a folder' if folder else 'folder, not a file'}"]
    return []


def _layout_problems(rows: Rows) -> list[str]:
    try:
        rows.layout  # noqa: B018 (determining the layout is the check)
    except SourceError as error:
        return [str(error)]
    return []


class JsonLines:
    """JSON Lines: one object per line, read at constant memory."""

    name: ClassVar[str] = "jsonl"
    also_known: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("file", "local", "ndjson", "json_lines", "jsonlines"), "{use: jsonl, path: data.jsonl}"
    )
    Config: ClassVar[type[StageConfig]] = JsonLinesConfig
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    @classmethod
    def problems(cls, config: JsonLinesConfig, base_dir: Path) -> Iterable[str]:
        encoding = encoding_problem(config.encoding)
        problems = _file_problems(base_dir / config.path) + ([encoding] if encoding else [])
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def columns(cls, config: JsonLinesConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: JsonLinesConfig, base_dir: Path) -> None:
        path = base_dir / config.path
        self.rows = Rows(config, lambda: json_lines(path, config))

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


class Json:
    """One JSON list of objects, loaded completely."""

    name: ClassVar[str] = "json"
    Config: ClassVar[type[StageConfig]] = JsonConfig
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    @classmethod
    def problems(cls, config: JsonConfig, base_dir: Path) -> Iterable[str]:
        encoding = encoding_problem(config.encoding)
        problems = _file_problems(base_dir / config.path) + ([encoding] if encoding else [])
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def columns(cls, config: JsonConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: JsonConfig, base_dir: Path) -> None:
        path = base_dir / config.path
        self.rows = Rows(config, lambda: json_list(path, config))

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


class Csv:
    """Comma- or tab-separated values with a header line, read at constant memory."""

    name: ClassVar[str] = "csv"
    also_known: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("tsv", "table", "pandas", "excel"), "{use: csv, path: data.csv}"
    )
    Config: ClassVar[type[StageConfig]] = CsvConfig
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    @classmethod
    def problems(cls, config: CsvConfig, base_dir: Path) -> Iterable[str]:
        encoding = encoding_problem(config.encoding)
        problems = _file_problems(base_dir / config.path) + ([encoding] if encoding else [])
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def columns(cls, config: CsvConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: CsvConfig, base_dir: Path) -> None:
        path = base_dir / config.path
        self.rows = Rows(config, lambda: csv_rows(path, config))

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


class Parquet:
    """A Parquet file, read in batches. NaN is null, as in data frames."""

    name: ClassVar[str] = "parquet"
    Config: ClassVar[type[StageConfig]] = ParquetConfig
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    @classmethod
    def problems(cls, config: ParquetConfig, base_dir: Path) -> Iterable[str]:
        problems = _file_problems(base_dir / config.path)
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def columns(cls, config: ParquetConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: ParquetConfig, base_dir: Path) -> None:
        path = base_dir / config.path
        self.rows = Rows(
            config,
            lambda: parquet_rows(path, config),
            nan_is_null=True,
            schema_classes=lambda column: parquet_classes(path, column),
        )

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


class Datasets:
    """A local folder written by ``datasets.save_to_disk``; the suffix ``/`` means a folder."""

    name: ClassVar[str] = "datasets"
    also_known: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("dataset", "arrow", "load_from_disk", "save_to_disk"),
        "{use: datasets, path: FOLDER}, where FOLDER was written by datasets.Dataset.save_to_disk",
    )
    Config: ClassVar[type[StageConfig]] = DatasetsConfig
    suffixes: ClassVar[tuple[str, ...]] = ("/",)

    @classmethod
    def problems(cls, config: DatasetsConfig, base_dir: Path) -> Iterable[str]:
        path = base_dir / config.path
        problems = _file_problems(path, folder=True)
        marks = ("dataset_info.json", "dataset_dict.json")
        if not problems and not any((path / mark).is_file() for mark in marks):
            problems = [f"{path}: is not a folder of datasets.save_to_disk: it has no {marks[0]}"]
        return problems

    @classmethod
    def columns(cls, config: DatasetsConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: DatasetsConfig, base_dir: Path) -> None:
        path = base_dir / config.path
        self.rows = Rows(
            config,
            lambda: dataset_rows(path, config),
            nan_is_null=True,
            schema_classes=lambda column: dataset_classes(path, config, column),
        )

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)
