"""``views.column``: a view from answers that the dataset already holds, such as what another model said before."""

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
)
from nfilter_robustft.answer import agreeing
from nfilter_robustft.views import excerpt, with_notes


class ColumnConfig(StageConfig):
    """``column`` holds the answer of each row: a text, a number, or a list of them (several draws of one model).

    ``nll`` names a column with the mean negative log-likelihood of an answer's tokens, in nats, and ``length`` one with
    how many tokens those were; both hold a list where the answers are a list. An empty cell is a view without an
    answer.
    """

    column: str = Field(min_length=1)
    into: str
    nll: str | None = None
    length: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_column(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("column"), str):
            return {"into": values["column"], **values}
        return values

    @model_validator(mode="after")
    def _length_of_an_nll(self) -> ColumnConfig:
        if self.length is not None and self.nll is None:
            raise ValueError(
                "length says of how many tokens nll is the mean; name its column: nll: COLUMN"
            )
        return self


class Column:
    """Writes the answers of a column as a view; of several draws, the one that most of them agree with.

    The answer is read from the text as from a model's reply. No model is called.
    """

    name: ClassVar[str] = "views.column"
    Config: ClassVar[type[StageConfig]] = ColumnConfig

    def __init__(self, config: ColumnConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ColumnConfig) -> Contract:
        """Writes one view."""
        return Contract(writes=frozenset({config.into}), views=frozenset({config.into}))

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Count the rows that have each column.

        Raises:
            RecipeError: where no row has one of them.
        """
        wanted = {
            "column": self.config.column, "nll": self.config.nll, "length": self.config.length
        }  # fmt: skip
        named = {field: name for field, name in wanted.items() if name is not None}
        filled = dict.fromkeys(named, 0)
        seen: dict[str, None] = {}
        rows = 0
        for sample in stream:
            rows += 1
            seen.update(dict.fromkeys(sample.meta))
            for field, name in named.items():
                filled[field] += not _is_empty(sample.meta.get(name))
        for field, name in named.items():
            if rows and name not in seen:
                raise RecipeError(
                    f"{self.name}: {field}: no row has a column {name!r}{did_you_mean(name, seen)}"
                )
        answered = filled["column"]
        say = ctx.log.info if answered else ctx.log.warning
        say(f"{answered} of {rows} rows have an answer in column {self.config.column!r}")
        counts: dict[str, JSON] = {"rows": rows, "with_a_value": answered}
        return State({"report": {"view_column": counts}})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the view of each sample of the chunk."""
        texts = [_texts(sample.meta.get(self.config.column)) for sample in chunk]
        answers = [
            [None if text is None else ctx.answers.parse(text, sample) for text in draws]
            for sample, draws in zip(chunk, texts, strict=True)
        ]
        votes = agreeing(answers, ctx)
        notes = {
            sample.id: self._note(sample, draws, each, supporters)
            for sample, draws, each, supporters in zip(chunk, texts, answers, votes, strict=True)
        }
        return with_notes(chunk, self.config.into, notes)

    def _note(
        self,
        sample: Sample,
        texts: Sequence[str | None],
        answers: Sequence[str | None],
        supporters: Sequence[int],
    ) -> View:
        config = self.config
        chosen = supporters[0] if supporters else 0
        value = sample.meta.get(config.column)
        text = texts[chosen]
        failure = None
        if _is_empty(value):
            failure = f"column {config.column!r} is empty in this row"
        elif text is None:
            failure = f"column {config.column!r} holds no text or number: {excerpt(str(value))}"
        more: dict[str, JSON] = {}
        if len(texts) > 1:
            more = {"agreement": len(supporters) / len(texts), "samples": len(texts)}
        nll = self._number(sample, config.nll, chosen, len(texts))
        length = self._number(sample, config.length, chosen, len(texts))
        if length is not None and length >= 1 and length.is_integer():
            more["length"] = int(length)
        return View(answers[chosen], text=text or "", nll=nll, calls=0, failure=failure, more=more)

    @staticmethod
    def _number(sample: Sample, column: str | None, draw: int, draws: int) -> float | None:
        """The number of one draw; None where there is none, or not one for each draw."""
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
    """The texts in a cell, one per draw; None for what is neither text nor number."""
    values = value if isinstance(value, list) and value else [value]
    return [_text(each) for each in values]


def _text(value: object) -> str | None:
    if _is_empty(value) or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)
