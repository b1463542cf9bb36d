"""``views.column``: a view from a dataset column, such as another model's answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Context,
    Contract,
    RecipeError,
    Sample,
    StageConfig,
    State,
    View,
    did_you_mean,
    excerpt,
)
from nfilter_robustft.answer import majority_draws
from nfilter_robustft.views import add_notes


class ColumnConfig(StageConfig):
    """``column`` contains the answer of each row: a string, a number, or a list of them (several draws of one model).

    ``nll`` names a column with the mean negative log-likelihood of the answer's tokens, in nats, and ``length`` one
    with the number of these tokens; both contain lists if the answers are lists. An empty cell is a missing answer.
    """

    column: str = Field(
        min_length=1, description="The column with each row's answer, or its list of answers."
    )
    into: str = Field(
        default="", description="The note with the view; by default the column's name."
    )
    nll: str | None = Field(
        default=None,
        description="The column with the mean negative log-likelihood of the answer's tokens, in nats.",
    )
    length: str | None = Field(
        default=None, description="The column with the number of these tokens."
    )

    @model_validator(mode="before")
    @classmethod
    def _into_defaults_to_column(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("column"), str):
            return {"into": values["column"], **values}
        return values

    @model_validator(mode="after")
    def _length_needs_nll(self) -> ColumnConfig:
        if self.length is not None and self.nll is None:
            raise ValueError("length is the number of tokens of nll; name its column: nll: COLUMN")
        return self


class Column:
    """Stage that writes a column's answers as a view; with several draws, the majority answer.

    Answers are parsed like a model's replies. No model is called.
    """

    name: ClassVar[str] = "views.column"
    Config: ClassVar[type[StageConfig]] = ColumnConfig

    def __init__(self, config: ColumnConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ColumnConfig) -> Contract:
        return Contract(writes=frozenset({config.into}), views=frozenset({config.into}))

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Count the rows with an answer.

        Raises:
            RecipeError: If no row has one of the configured columns.
        """
        config = self.config
        columns = {"column": config.column, "nll": config.nll, "length": config.length}
        present: dict[str, None] = {}
        rows = answered = 0
        for sample in stream:
            rows += 1
            present.update(dict.fromkeys(sample.meta))
            answered += not _is_empty(sample.meta.get(config.column))
        for field, name in columns.items():
            if rows and name is not None and name not in present:
                raise RecipeError(
                    f"{self.name}: {field}: no row has a column {name!r}{did_you_mean(name, present)}"
                )
        log = ctx.log.info if answered else ctx.log.warning
        log(f"{answered} of {rows} rows have an answer in column {config.column!r}")
        counts: dict[str, JSON] = {"rows": rows, "with_a_value": answered}
        return State({"report": {"view_column": counts}})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        texts = [_texts(sample.meta.get(self.config.column)) for sample in chunk]
        answers = [
            [None if text is None else ctx.answers.parse(text, sample) for text in draws]
            for sample, draws in zip(chunk, texts, strict=True)
        ]
        majorities = majority_draws(answers, ctx)
        notes = {
            sample.id: self._note(sample, draws, each, majority)
            for sample, draws, each, majority in zip(chunk, texts, answers, majorities, strict=True)
        }
        return add_notes(chunk, self.config.into, notes)

    def _note(
        self,
        sample: Sample,
        texts: Sequence[str | None],
        answers: Sequence[str | None],
        majority: Sequence[int],
    ) -> View:
        config = self.config
        chosen = majority[0] if majority else 0
        value = sample.meta.get(config.column)
        text = texts[chosen]
        failure = None
        if _is_empty(value):
            failure = f"column {config.column!r} is empty in this row"
        elif text is None:
            failure = (
                f"column {config.column!r} contains no string or number: {excerpt(str(value))}"
            )
        more: dict[str, JSON] = {}
        if len(texts) > 1:
            more = {"agreement": len(majority) / len(texts), "samples": len(texts)}
        nll = self._number(sample, config.nll, chosen, len(texts))
        length = self._number(sample, config.length, chosen, len(texts))
        if length is not None and length >= 1 and length.is_integer():
            more["length"] = int(length)
        return View(answers[chosen], text=text or "", nll=nll, calls=0, failure=failure, more=more)

    @staticmethod
    def _number(sample: Sample, column: str | None, draw: int, draws: int) -> float | None:
        """Return the number of one draw, or None if it is missing or the cell has not one per draw."""
        value = None if column is None else sample.meta.get(column)
        if isinstance(value, list):
            value = value[draw] if len(value) == draws else None
        elif draws > 1:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) and number >= 0 else None


def _is_empty(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _texts(value: object) -> list[str | None]:
    """Return the texts in a cell, one per draw; None for a value that is neither string nor number."""
    values = value if isinstance(value, list) and value else [value]
    return [_text(each) for each in values]


def _text(value: object) -> str | None:
    if _is_empty(value) or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)
