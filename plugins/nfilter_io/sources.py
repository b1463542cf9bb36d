"""The sources: one class per container format."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final

from nfilter import JSON, Row, Sample, SourceError, StageConfig, Unreadable, file_advice
from nfilter_io.config import CsvConfig, DatasetsConfig, JsonConfig, JsonLinesConfig, ParquetConfig
from nfilter_io.csv_rows import csv_rows
from nfilter_io.remote import (
    OWN_HOSTS,
    fetch,
    hosts_of,
    identity_of,
    is_address,
    local_path,
    read_local,
)
from nfilter_io.rows import Rows
from nfilter_io.tables import dataset_classes, dataset_rows, parquet_classes, parquet_rows
from nfilter_io.text_files import encoding_problem, json_lines, json_list

_ADDRESS_OF_FOLDER: Final = "is an address, and folders are read from this machine only; name one file, with use: parquet or use: jsonl"


def _file_problems(path: str, base_dir: Path) -> list[str]:
    return [] if is_address(path) else _local_problems(base_dir / path)


def _local_problems(path: Path, *, folder: bool = False) -> list[str]:
    try:
        present = path.exists()
    except PermissionError as error:
        return [f"{path}: {error.strerror}; {file_advice(path, error)}"]
    if not present:
        literal = "; ~ and variables are not expanded" * any(
            part == "~" or part.startswith("$") for part in path.parts
        )
        kind = "folder" if folder else "file"
        return [f"{path}: there is no such {kind}; check `path`{literal}"]
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
    own_hosts: ClassVar[frozenset[str]] = OWN_HOSTS
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    @classmethod
    def problems(cls, config: JsonLinesConfig, base_dir: Path) -> Iterable[str]:
        encoding = encoding_problem(config.encoding)
        problems = _file_problems(config.path, base_dir) + ([encoding] if encoding else [])
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def hosts(cls, config: JsonLinesConfig) -> Iterable[str]:
        return hosts_of(config.path)

    @classmethod
    def fetch(cls, config: JsonLinesConfig, base_dir: Path, allowed: Container[str]) -> None:
        del base_dir
        fetch(config.path, allowed)

    @classmethod
    def identity(cls, config: JsonLinesConfig, base_dir: Path) -> str:
        return identity_of(config.path, base_dir)

    @classmethod
    def columns(cls, config: JsonLinesConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: JsonLinesConfig, base_dir: Path) -> None:
        self.rows = Rows(
            config, lambda: read_local(config.path, base_dir, lambda file: json_lines(file, config))
        )

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


class Json:
    """One JSON list of objects, loaded completely."""

    name: ClassVar[str] = "json"
    Config: ClassVar[type[StageConfig]] = JsonConfig
    own_hosts: ClassVar[frozenset[str]] = OWN_HOSTS
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    @classmethod
    def problems(cls, config: JsonConfig, base_dir: Path) -> Iterable[str]:
        encoding = encoding_problem(config.encoding)
        problems = _file_problems(config.path, base_dir) + ([encoding] if encoding else [])
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def hosts(cls, config: JsonConfig) -> Iterable[str]:
        return hosts_of(config.path)

    @classmethod
    def fetch(cls, config: JsonConfig, base_dir: Path, allowed: Container[str]) -> None:
        del base_dir
        fetch(config.path, allowed)

    @classmethod
    def identity(cls, config: JsonConfig, base_dir: Path) -> str:
        return identity_of(config.path, base_dir)

    @classmethod
    def columns(cls, config: JsonConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: JsonConfig, base_dir: Path) -> None:
        self.rows = Rows(
            config, lambda: read_local(config.path, base_dir, lambda file: json_list(file, config))
        )

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
    own_hosts: ClassVar[frozenset[str]] = OWN_HOSTS
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    @classmethod
    def problems(cls, config: CsvConfig, base_dir: Path) -> Iterable[str]:
        encoding = encoding_problem(config.encoding)
        problems = _file_problems(config.path, base_dir) + ([encoding] if encoding else [])
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def hosts(cls, config: CsvConfig) -> Iterable[str]:
        return hosts_of(config.path)

    @classmethod
    def fetch(cls, config: CsvConfig, base_dir: Path, allowed: Container[str]) -> None:
        del base_dir
        fetch(config.path, allowed)

    @classmethod
    def identity(cls, config: CsvConfig, base_dir: Path) -> str:
        return identity_of(config.path, base_dir)

    @classmethod
    def columns(cls, config: CsvConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: CsvConfig, base_dir: Path) -> None:
        self.rows = Rows(
            config, lambda: read_local(config.path, base_dir, lambda file: csv_rows(file, config))
        )

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


class Parquet:
    """A Parquet file, read in batches. NaN is null, as in data frames."""

    name: ClassVar[str] = "parquet"
    Config: ClassVar[type[StageConfig]] = ParquetConfig
    own_hosts: ClassVar[frozenset[str]] = OWN_HOSTS
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    @classmethod
    def problems(cls, config: ParquetConfig, base_dir: Path) -> Iterable[str]:
        problems = _file_problems(config.path, base_dir)
        return problems or _layout_problems(cls(config, base_dir).rows)

    @classmethod
    def hosts(cls, config: ParquetConfig) -> Iterable[str]:
        return hosts_of(config.path)

    @classmethod
    def fetch(cls, config: ParquetConfig, base_dir: Path, allowed: Container[str]) -> None:
        del base_dir
        fetch(config.path, allowed)

    @classmethod
    def identity(cls, config: ParquetConfig, base_dir: Path) -> str:
        return identity_of(config.path, base_dir)

    @classmethod
    def columns(cls, config: ParquetConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    def __init__(self, config: ParquetConfig, base_dir: Path) -> None:
        self.rows = Rows(
            config,
            lambda: read_local(config.path, base_dir, lambda file: parquet_rows(file, config)),
            nan_is_null=True,
            schema_classes=lambda column: parquet_classes(
                local_path(config.path, base_dir), column
            ),
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
        if is_address(config.path):
            return [f"{config.path}: {_ADDRESS_OF_FOLDER}"]
        problems = _local_problems(path, folder=True)
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
