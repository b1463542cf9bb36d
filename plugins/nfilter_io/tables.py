"""Parquet files and ``datasets`` folders as records, read in batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from nfilter import SourceError, file_advice, first_line, missing_package
from nfilter_io.cells import Record, Undecodable, quoted
from nfilter_io.config import DatasetsConfig, ParquetConfig

_BATCH: Final = 256


def parquet_rows(path: Path, config: ParquetConfig) -> Iterator[Record]:  # noqa: ARG001
    """Yield the rows of a Parquet file; raise SourceError if the file is invalid or truncated."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SourceError(
            f"{path}: reading Parquet {missing_package('pyarrow', 'nfilter[parquet]')}"
        ) from error
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: cannot be opened as Parquet: {first_line(error)}{_advice(path, error)}"
        ) from error
    with file:
        check_unique_names(path, file.schema_arrow.names)
        yield from records(path, file.iter_batches(batch_size=_BATCH))


def dataset_rows(path: Path, config: DatasetsConfig) -> Iterator[Record]:
    """Yield the rows of a folder of ``datasets.save_to_disk`` in the dataset's order.

    Raises:
        SourceError: the package, the folder or the split is missing.
    """
    yield from arrow_rows(path, _load(path, config))


def arrow_rows(path: Path, data: Any) -> Iterator[Record]:
    """Yield the rows of a dataset of ``datasets`` in its order; one that streams may not know its columns beforehand."""
    if data.column_names is not None:
        check_unique_names(path, data.column_names)
    # The arrow format returns tables as stored: no image or sound is decoded.
    yield from records(path, data.with_format("arrow").iter(batch_size=_BATCH))


def _advice(path: Path, error: Exception) -> str:
    return f"; {file_advice(path, error)}" if isinstance(error, PermissionError) else ""


def class_names(data: Any, column: str) -> list[str] | None:
    """Return the class names of a column in a dataset's features (``ClassLabel``), or None."""
    names = getattr((data.features or {}).get(column), "names", None)
    return [str(name) for name in names] if names else None


def _load(path: Path, config: DatasetsConfig) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"{path}: reading a datasets folder {missing_package('datasets', 'nfilter[datasets]')}"
        ) from error
    if not path.is_dir():
        raise SourceError(
            f"{path}: is not a folder; name the folder that datasets.save_to_disk wrote"
        )
    try:
        data = datasets.load_from_disk(str(path))
    except _errors(OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path}: cannot be opened as a datasets folder: {first_line(error)}{_advice(path, error)}"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        data = data[choose_split(path, list(data), config.split)]
    elif config.split is not None:
        raise SourceError(f"{path}: has no splits; remove `split`")
    return data


def dataset_classes(path: Path, config: DatasetsConfig, column: str) -> list[str] | None:
    """Return the class names of a column in a dataset's features (``ClassLabel``), or None."""
    return class_names(_load(path, config), column)


def parquet_classes(path: Path, column: str) -> list[str] | None:
    """Return the class names of a column that ``datasets`` stored in a Parquet file's schema, or None."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or len(names) < 2:
        return None
    return [str(name) for name in names]


def choose_split(path: Path, names: list[str], split: str | None) -> str:
    """Return the split to read; raise SourceError where it is missing or has to be named."""
    if split is None and len(names) == 1:
        return names[0]
    if split in names:
        return str(split)
    listed = ", ".join(quoted(name) for name in names) or "none"
    problem = "has several splits" if split is None else f"has no split {quoted(split)}"
    hint = f"; type `split: {names[0]}`" if names else ""
    raise SourceError(f"{path}: {problem}. Splits found: {listed}{hint}")


def _errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return Arrow's exception class, imported lazily, and ``others``."""
    import pyarrow as pa

    return (pa.ArrowException, *others)


def check_unique_names(path: Path, names: Iterable[str]) -> None:
    """Raise SourceError where two columns have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SourceError(f"{path}: two columns have the name {quoted(name)}; rename one")
        seen.add(name)


def records(path: Path, batches: Iterable[Any]) -> Iterator[Record]:
    """Yield the rows of Arrow batches, numbered from 1; raise SourceError where a batch cannot be read."""
    number = 0
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator, None)
        except _errors(OSError, ValueError) as error:
            raise SourceError(
                f"{path}: cannot be read after row {number}: {first_line(error)}"
            ) from error
        if batch is None:
            return
        names = list(batch.schema.names)
        columns = [_decode_column(batch.column(index)) for index in range(len(names))]
        for row in range(batch.num_rows):
            number += 1
            cells = (column[row] for column in columns)
            yield Record(number, dict(zip(names, cells, strict=True)))


def _decode_column(column: Any) -> list[Any]:
    """Return the values of a column; an undecodable one becomes Undecodable and affects only its row."""
    try:
        return list(column.to_pylist())
    except _errors(ValueError, ArithmeticError, TypeError, LookupError):
        return [_decode_cell(value) for value in column]


def _decode_cell(value: Any) -> Any:
    try:
        return value.as_py()
    except _errors(ValueError, ArithmeticError, TypeError, LookupError) as error:
        return Undecodable(f"contains a value that cannot be decoded: {first_line(error)}")
