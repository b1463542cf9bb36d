"""The configurations of the sources, and the part that they share as a protocol."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field

from nfilter import StageConfig

ShapeName = Literal["auto", "prompt", "alpaca", "messages", "sharegpt", "choice"]
Columns = dict[str, str | tuple[str, ...]]

LINE_LIMIT = 16 * 1024 * 1024
FILE_LIMIT = 512 * 1024 * 1024


class Settings(Protocol):
    """What every source's configuration says.

    ``columns`` maps a role of the shape (``question``) to a column of the data (``q``), or, for ``options``
    alone, to several columns. ``id`` None means the column ``id`` where there is one. ``truth`` is the column
    of the true labels, which no sample ever holds. ``index_base`` says where answers that are indices of options
    start; None guesses it from the first rows.
    """

    @property
    def path(self) -> str: ...
    @property
    def shape(self) -> ShapeName: ...
    @property
    def columns(self) -> Columns: ...
    @property
    def id(self) -> str | None: ...
    @property
    def truth(self) -> str | None: ...
    @property
    def index_base(self) -> Literal[0, 1] | None: ...


class JsonLinesConfig(StageConfig):
    """A file with one JSON object a line; ``max_line_bytes`` bounds what one row may take in memory."""

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    index_base: Literal[0, 1] | None = None
    encoding: str = "utf-8"
    max_line_bytes: Annotated[int, Field(ge=1)] = LINE_LIMIT


class JsonConfig(StageConfig):
    """A file that is one JSON list of objects, of at most ``max_bytes``."""

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    index_base: Literal[0, 1] | None = None
    encoding: str = "utf-8"
    max_bytes: Annotated[int, Field(ge=1)] = FILE_LIMIT


class CsvConfig(StageConfig):
    """A table with a header line. ``delimiter`` None is a tab for ``.tsv`` and a comma else.

    ``max_line_bytes`` bounds one record, which may span lines inside quotes.
    """

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    index_base: Literal[0, 1] | None = None
    encoding: str = "utf-8"
    max_line_bytes: Annotated[int, Field(ge=1)] = LINE_LIMIT
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = None


class ParquetConfig(StageConfig):
    """A Parquet file."""

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    index_base: Literal[0, 1] | None = None


class DatasetsConfig(StageConfig):
    """A folder that ``datasets.save_to_disk`` wrote; ``split`` names one where it holds several."""

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    index_base: Literal[0, 1] | None = None
    split: str | None = None
