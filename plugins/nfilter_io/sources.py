"""The sources: one class per container format; those that read one file differ only in their readers and settings."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

from nfilter import (
    JSON,
    Row,
    Sample,
    ShowsBytes,
    SourceError,
    StageConfig,
    Unreadable,
    file_advice,
    is_address,
)
from nfilter_io.cells import Record
from nfilter_io.config import (
    CsvConfig,
    DatasetsConfig,
    FileSettings,
    JsonConfig,
    JsonLinesConfig,
    ParquetConfig,
)
from nfilter_io.csv_rows import csv_rows, needed_delimiter
from nfilter_io.remote import OWN_HOSTS, fetch, hosts_of, identity_of, local_path, read_local
from nfilter_io.rows import Rows, remarks_on_rows
from nfilter_io.tables import dataset_classes, dataset_rows, parquet_classes, parquet_rows
from nfilter_io.text_files import encoding_problem, json_lines, json_list

_ADDRESS_OF_FOLDER: Final = "is an address, and folders are read from this machine only; name one file, with use: parquet or use: jsonl"


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


def _no_classes(path: Path, column: str) -> None:
    del path, column


def _no_settings(path: Path, config: Any) -> Mapping[str, JSON]:
    del path, config
    return {}


def _settings_by(
    needs: Callable[[Path, Any], Mapping[str, JSON]],
) -> Callable[[type[Any], FileSettings, Path], Mapping[str, JSON]]:
    """The method ``needed_settings`` of a source of files."""

    def needed_settings(cls: type[Any], config: FileSettings, base_dir: Path) -> Mapping[str, JSON]:
        del cls
        return needs(local_path(config.path, base_dir, config.query_env), config)

    return needed_settings


def _file_source(
    called: str,
    settings: type[FileSettings],
    records: Callable[[Path, Any], Iterator[Record | Unreadable]],
    endings: tuple[str, ...],
    *,
    others: Mapping[str, str] = MappingProxyType({}),
    classes: Callable[[Path, str], Sequence[str] | None] = _no_classes,
    needs: Callable[[Path, Any], Mapping[str, JSON]] = _no_settings,
) -> type[Any]:
    """Return the source that reads one file, on this machine or at an address.

    Args:
        called: Its name in recipes.
        settings: Its ``Config``.
        records: Reads the records of a file on this machine.
        endings: The suffixes of such files.
        others: Its names in other tools, with what to write here.
        classes: Returns the class names of a column in the schema of a file; for formats with a schema.
        needs: Returns settings that a file needs.
    """

    class FileSource:
        name: ClassVar[str] = called
        also_known: ClassVar[Mapping[str, str]] = others
        Config: ClassVar[type[StageConfig]] = settings
        own_hosts: ClassVar[frozenset[str]] = OWN_HOSTS
        suffixes: ClassVar[tuple[str, ...]] = endings

        @classmethod
        def problems(cls, config: FileSettings, base_dir: Path) -> Iterable[str]:
            encoding = encoding_problem(getattr(config, "encoding", "utf-8"))
            local = [] if is_address(config.path) else _local_problems(base_dir / config.path)
            problems = local + ([encoding] if encoding else [])
            return problems or _layout_problems(cls(config, base_dir).rows)

        @classmethod
        def hosts(cls, config: FileSettings) -> Iterable[str]:
            return hosts_of(config.path)

        @classmethod
        def fetch(
            cls,
            config: FileSettings,
            base_dir: Path,
            allowed: Container[str],
            progress: ShowsBytes,
        ) -> None:
            del base_dir
            fetch(config.path, allowed, progress, config.query_env)

        @classmethod
        def identity(cls, config: FileSettings, base_dir: Path) -> str:
            return identity_of(config.path, base_dir, config.query_env)

        @classmethod
        def columns(cls, config: FileSettings, base_dir: Path) -> Mapping[str, str]:
            return cls(config, base_dir).rows.layout.describe()

        needed_settings = classmethod(_settings_by(needs))
        remarks = classmethod(remarks_on_rows)

        def __init__(self, config: FileSettings, base_dir: Path) -> None:
            def file() -> Path:
                return local_path(config.path, base_dir, config.query_env)

            self.rows = Rows(
                config,
                lambda: read_local(config.path, file(), lambda path: records(path, config)),
                schema_classes=lambda column: classes(file(), column),
            )

        def read(self) -> Iterator[Row | Unreadable]:
            return self.rows.read()

        def restore(self, sample: Sample) -> Mapping[str, JSON]:
            return self.rows.restore(sample)

    FileSource.__name__ = FileSource.__qualname__ = settings.__name__.removesuffix("Config")
    return FileSource


# One object per line, read at constant memory.
JsonLines = _file_source(
    "jsonl",
    JsonLinesConfig,
    json_lines,
    (".jsonl", ".ndjson"),
    others=dict.fromkeys(
        ("file", "local", "ndjson", "json_lines", "jsonlines"), "{use: jsonl, path: data.jsonl}"
    ),
)
# One list of objects, loaded completely.
Json = _file_source("json", JsonConfig, json_list, (".json",))
# Comma- or tab-separated values with a header line, read at constant memory.
Csv = _file_source(
    "csv",
    CsvConfig,
    csv_rows,
    (".csv", ".tsv"),
    others=dict.fromkeys(("tsv", "table", "pandas", "excel"), "{use: csv, path: data.csv}"),
    needs=needed_delimiter,
)
# Read in batches.
Parquet = _file_source(
    "parquet", ParquetConfig, parquet_rows, (".parquet", ".pq"), classes=parquet_classes
)


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
    def hosts(cls, config: DatasetsConfig) -> Iterable[str]:
        """Return no host: a folder at an address is not read, whatever hosts are allowed."""
        del config
        return ()

    @classmethod
    def columns(cls, config: DatasetsConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    remarks = classmethod(remarks_on_rows)

    def __init__(self, config: DatasetsConfig, base_dir: Path) -> None:
        path = base_dir / config.path
        self.rows = Rows(
            config,
            lambda: dataset_rows(path, config),
            schema_classes=lambda column: dataset_classes(path, config, column),
        )

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)
