"""The configurations of the sources, and the part that they share as a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, Protocol

from pydantic import Field

from nfilter import StageConfig

ShapeName = Literal["auto", "prompt", "alpaca", "messages", "sharegpt", "choice", "label"]
Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
Columns = dict[str, str | tuple[str, ...]]

LINE_LIMIT = 16 * 1024 * 1024
FILE_LIMIT = 512 * 1024 * 1024


_PATH = (
    "file",
    "filename",
    "data",
    "dataset",
    "data_path",
    "data_files",
    "data_file",
    "name",
    "folder",
    "dir",
)
_ROLES = (
    "prompt_column", "response_column", "text_column", "label_column", "input_column", "output_column", "question_column",
    "answer_column", "messages_column", "field", "fields", "field_instruction", "field_output", "field_messages", "column",
    "column_mapping", "prompt", "response", "instruction", "question", "answer", "messages", "text", "label",
)  # fmt: skip
ELSEWHERE: Final = {
    **dict.fromkeys(_PATH, "path"),
    **dict.fromkeys(("format", "type", "template", "formatting", "ds_type"), "shape"),
    **dict.fromkeys(_ROLES, "the columns are named under columns: columns: {prompt: COLUMN, response: COLUMN}"),
    **dict.fromkeys(("classes", "class_names", "label_names", "categories", "names"), "labels"),
    **dict.fromkeys(("id_column", "id_field", "uid"), "id"),
    **dict.fromkeys(("sample_weight", "loss_weight", "weight_column", "weights"), "weight"),
    **dict.fromkeys(("true_label", "gold", "ground_truth", "truth_column", "clean_label"), "truth"),
    **dict.fromkeys(("max_samples", "num_samples", "limit", "n"), "leave the line out, and type nfilter run RECIPE --limit 100"),
}  # fmt: skip
"""What other tools call the settings of all sources, and what to write here."""
_OF_FILES: Final = {
    **ELSEWHERE,
    "split": "a file holds one split: write it to a file of its own, or name a folder of save_to_disk with use: datasets",
}


class Settings(Protocol):
    """What every source's configuration says.

    ``columns`` maps a role of the shape (``question``) to a column of the data (``q``), or, for ``options``
    alone, to several columns. ``id`` None means the column ``id`` where there is one. ``truth`` is the column
    of the true labels, which no sample ever holds. ``weight`` is the column of the row's weight in the training loss, a
    finite number from 0 up; an empty cell is 1. ``index_base`` says where answers that are indices of options
    start; None guesses it from the first rows. ``labels`` names the classes of the shape ``label``, in the order of
    their indices; None takes those that the data's schema names, or that stand in the column.
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
    def weight(self) -> str | None: ...
    @property
    def index_base(self) -> Literal[0, 1] | None: ...
    @property
    def labels(self) -> Labels | None: ...


class JsonLinesConfig(StageConfig):
    """A file with one JSON object a line; ``max_line_bytes`` bounds what one row may take in memory."""

    also_known: ClassVar[Mapping[str, str]] = _OF_FILES

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    index_base: Literal[0, 1] | None = None
    labels: Labels | None = None
    encoding: str = "utf-8"
    max_line_bytes: Annotated[int, Field(ge=1)] = LINE_LIMIT


class JsonConfig(StageConfig):
    """A file that is one JSON list of objects, of at most ``max_bytes``."""

    also_known: ClassVar[Mapping[str, str]] = _OF_FILES

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    index_base: Literal[0, 1] | None = None
    labels: Labels | None = None
    encoding: str = "utf-8"
    max_bytes: Annotated[int, Field(ge=1)] = FILE_LIMIT


class CsvConfig(StageConfig):
    """A table with a header line. ``delimiter`` None is a tab for ``.tsv`` and a comma else.

    ``max_line_bytes`` bounds one record, which may span lines inside quotes.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **_OF_FILES,
        **dict.fromkeys(("sep", "separator"), "delimiter"),
    }

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    index_base: Literal[0, 1] | None = None
    labels: Labels | None = None
    encoding: str = "utf-8"
    max_line_bytes: Annotated[int, Field(ge=1)] = LINE_LIMIT
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = None


class ParquetConfig(StageConfig):
    """A Parquet file."""

    also_known: ClassVar[Mapping[str, str]] = _OF_FILES

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    index_base: Literal[0, 1] | None = None
    labels: Labels | None = None


class DatasetsConfig(StageConfig):
    """A folder that ``datasets.save_to_disk`` wrote; ``split`` names one where it holds several."""

    also_known: ClassVar[Mapping[str, str]] = ELSEWHERE

    path: str
    shape: ShapeName = "auto"
    columns: Columns = Field(default_factory=dict)
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    index_base: Literal[0, 1] | None = None
    labels: Labels | None = None
    split: str | None = None
