"""Configurations of the sources, and their shared settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from nfilter import StageConfig
from nfilter_io.remote import query_problem

ShapeName = Literal[
    "auto",
    "prompt",
    "alpaca",
    "messages",
    "sharegpt",
    "choice",
    "label",
    "preference",
    "completion",
]
Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
Columns = dict[str, str | tuple[str, ...]]

# The settings that all sources have, with their descriptions.
_Path = Annotated[
    str, Field(description="The folder; relative paths start at the recipe's folder.")
]
_Encoding = Annotated[str, Field(description="The encoding of the text, by Python's name.")]
_LineLimit = Annotated[int, Field(ge=1, description="Bytes of a row, at most.")]

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
ALSO_KNOWN: Final = {
    **dict.fromkeys(_PATH, "path"),
    **dict.fromkeys(("format", "type", "template", "formatting", "ds_type"), "shape"),
    **dict.fromkeys(_ROLES, "columns are named under columns: columns: {prompt: COLUMN, response: COLUMN}"),
    **dict.fromkeys(("classes", "class_names", "label_names", "categories", "names"), "labels"),
    **dict.fromkeys(("id_column", "id_field", "uid"), "id"),
    **dict.fromkeys(("sample_weight", "loss_weight", "weight_column", "weights"), "weight"),
    **dict.fromkeys(("true_label", "gold", "ground_truth", "truth_column", "clean_label"), "truth"),
    **dict.fromkeys(("max_samples", "num_samples", "limit", "n"), "remove the line, and type nfilter run RECIPE --limit 100"),
}  # fmt: skip
"""Names of the sources' settings in other tools, with the setting to write here."""
_ALSO_KNOWN_FILES: Final = {
    **ALSO_KNOWN,
    "split": "a file contains one split: write each split to its own file, or name a folder of save_to_disk with use: datasets",
}


class RowSettings(StageConfig):
    """Settings of every source.

    ``columns`` maps a role of the shape (``question``) to a column of the data (``q``), or ``options`` to several
    columns. Samples never contain the column ``truth``. ``weight`` is a finite number of at least 0. ``index_base`` is by default
    that of the first rows, which tell it where one is 0 or the number of options; ``labels`` are by default those of the schema or of the column.
    """

    path: str = Field(description="The file or folder.")
    shape: ShapeName = Field(
        default="auto", description="What the columns are; auto finds it out from the first rows."
    )
    columns: Columns = Field(
        default_factory=dict,
        description="The column of each role of the shape, such as {prompt: q, response: a}.",
    )
    id: str | None = Field(
        default=None, description="The column of the ids; null takes id, if it exists."
    )
    truth: str | None = Field(
        default=None,
        description="The column of the true labels; no stage sees it, metrics do.",
    )
    weight: str | None = Field(
        default=None,
        description="The column of the row's weight in the loss, at least 0; an empty cell is 1.",
    )
    index_base: Literal[0, 1] | None = Field(
        default=None,
        description="The first index of answers that are indices of options; null takes it from the first rows.",
    )
    labels: Annotated[Labels | None, Field(description="The classes of the shape label, in the order of their indices.")] = None  # fmt: skip


class FileSettings(RowSettings):
    """Settings of a source that reads one file."""

    also_known: ClassVar[Mapping[str, str]] = _ALSO_KNOWN_FILES

    path: str = Field(
        description="The file: a path, relative to the recipe's folder, or an address: https://HOST/FILE, s3://BUCKET/FILE, "
        "gs://BUCKET/FILE, hf://datasets/OWNER/NAME/FILE."
    )
    query_env: str | None = Field(
        default=None,
        description="The environment variable with the query of an https address, such as the signature of a presigned one; its "
        "name begins with NFILTER_QUERY.",
    )

    @model_validator(mode="after")
    def _check_query(self) -> FileSettings:
        # Not a field validator: its error would show the value, which may be the query itself.
        problem = None if self.query_env is None else query_problem(self.path, self.query_env)
        if problem is not None:
            raise ValueError(problem)
        return self


class JsonLinesConfig(FileSettings):
    """Settings of a file with one JSON object per line; ``max_line_bytes`` is the maximum size of a row."""

    encoding: _Encoding = "utf-8"
    max_line_bytes: _LineLimit = LINE_LIMIT


class JsonConfig(FileSettings):
    """Settings of a file with one JSON list of objects, of at most ``max_bytes``."""

    encoding: _Encoding = "utf-8"
    max_bytes: int = Field(default=FILE_LIMIT, ge=1, description="Bytes of the file, at most.")


class CsvConfig(FileSettings):
    """Settings of a table with a header line. ``delimiter`` is by default a tab for ``.tsv``, else a comma.

    ``max_line_bytes`` is the maximum size of a record, which may span several lines inside quotes.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **_ALSO_KNOWN_FILES,
        **dict.fromkeys(("sep", "separator"), "delimiter"),
    }

    encoding: _Encoding = "utf-8"
    max_line_bytes: _LineLimit = LINE_LIMIT
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = Field(
        default=None,
        description="The character between columns; null: a tab in .tsv, else a comma.",
    )


class ParquetConfig(FileSettings):
    """Settings of a Parquet file."""


class DatasetsConfig(RowSettings):
    """Settings of a folder written by ``datasets.save_to_disk``; ``split`` selects one of several splits."""

    also_known: ClassVar[Mapping[str, str]] = ALSO_KNOWN

    path: _Path
    split: str | None = Field(default=None, description="The split, where the folder has several.")
