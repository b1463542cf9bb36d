"""The recipe's ``answer`` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nfilter.answers.locales import has_comma
from nfilter.answers.thoughts import Marks
from nfilter.api.capabilities import Embeds, Generates, Needs
from nfilter.api.settings import StageConfig

_OWNERS = {
    "tolerance": "number",
    "absolute": "number",
    "units": "number",
    "locale": "number",
    "f1": "spans",
    "encoder": "text",
    "similarity": "text",
    "judge": "text",
    "prompt": "text",
}


class AnswerConfig(StageConfig):
    """The form of the answers in this dataset: ``answer: choice``, or ``answer: {kind: number, tolerance: 0.01}``.

    ``choice``: the letter of an option, checked against the sample's options. ``label``: the name of a class, one of
    those that the sample lists. ``number``: equal within
    ``tolerance`` (a share of the larger one) or ``absolute``; ``units`` maps a unit to the factor that it stands
    for (``{km: 1000, "%": 0.01}``), all other units being ignored; ``locale`` is the language of the
    numbers (``de``: 1.234,5), English where it is not set. ``exact``: the same words. ``spans``: a set of
    strings whose token F1 is at least ``f1``. ``text``: open-ended, compared by an ``encoder`` (cosine of at
    least ``similarity``) or by a ``judge`` that is asked with ``prompt``. ``preference``: which of the two responses of a
    preference pair is better.

    ``thoughts`` are the marks around thoughts in the dataset's own responses, where they are none of the usual ones;
    the answer comes after them. A model's marks stand on the model.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("type", "use", "format", "metric"), "kind"),
        **dict.fromkeys(("threshold", "min_similarity"), "similarity"),
        **dict.fromkeys(("embedder", "embedding_model"), "encoder"),
        **dict.fromkeys(("llm", "grader"), "judge"),
    }

    kind: Literal["choice", "label", "number", "exact", "spans", "text", "preference"] = Field(
        default="exact",
        description="What answers are: the letter of an option, a class, a number, the same words, a set of strings, open-ended text, or which response of a pair is preferred.",
    )
    tolerance: float = Field(
        default=1e-6,
        ge=0,
        lt=1,
        description="number: relative difference up to which two are equal, 0 to below 1.",
    )
    absolute: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="number: absolute difference up to which two are equal.",
    )
    units: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="number: units and their factors, such as {km: 1000}; other units are ignored.",
    )
    locale: str | None = Field(
        default=None,
        description="number: the language of the numbers, such as de; null is English.",
    )
    f1: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="spans: token F1 from which two strings are the same, above 0, at most 1.",
    )
    encoder: Annotated[str | None, Needs(Embeds)] = Field(
        default=None, description="text: the model whose embeddings are compared."
    )
    similarity: float = Field(
        default=0.8,
        gt=-1,
        le=1,
        description="text: cosine similarity from which two texts say the same, -1 to 1.",
    )
    judge: Annotated[str | None, Needs(Generates)] = Field(
        default=None, description="text: the model that is asked whether two texts say the same."
    )
    prompt: str = Field(
        default="answers/same", description="text: the template of the judge, folder/name."
    )
    thoughts: Marks | None = Field(
        default=None,
        description="The marks around reasoning in the dataset's responses: [opening, closing]; [] cuts nothing, null takes the usual ones.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_the_kind(self) -> AnswerConfig:
        plain = type(self).model_construct()
        for name, owner in _OWNERS.items():
            if owner != self.kind and getattr(self, name) != getattr(plain, name):
                raise ValueError(f"{name!r} belongs to kind {owner!r}, not to {self.kind!r}")
        has_comma(self.locale)
        if self.kind == "text" and (self.encoder is None) == (self.judge is None):
            raise ValueError(
                "kind 'text' compares meanings: name one model for it, "
                "encoder: MODEL (cosine of embeddings) or judge: MODEL (asked in words)"
            )
        return self
