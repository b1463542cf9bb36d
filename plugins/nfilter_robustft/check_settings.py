"""The settings of ``robustft.check``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nfilter import Proportion, Retries, RetryTemperature, StageConfig
from nfilter_robustft.confidence import Sure
from nfilter_robustft.keys import REVIEWED
from nfilter_robustft.settings import TrustedColumn
from nfilter_robustft.statistics.cutoff import parse_share

_Percent = Annotated[str, Field(pattern=r"^[0-9.]+%$")]
_Share = Annotated[
    float,
    Field(gt=0, le=1),
    BeforeValidator(
        parse_share, json_schema_input_type=Annotated[float, Field(gt=0, le=1)] | _Percent
    ),
]


class CheckConfig(StageConfig):
    """``vote``: a label is reliable if every view agrees with it (``all``), or at least one does (``any``).

    ``vote: judge`` asks a model about labels that not every view agrees with. ``vote: probability`` calls a label
    reliable if its noise score is at most ``threshold`` and some view has an answer. ``vote: none`` flags nothing.

    For low noise rates: ``budget_of_flags`` (0.05 or "5%") flags at most that share of the labels, by descending noise
    score; ``target_precision`` flags as many labels as keep that expected precision, estimated from trusted rows or
    else from the noise scores. Either sets ``vote: probability``.

    With ``sure``, one view votes alone on samples on which it is confident; on the others it has no vote.
    ``collision`` is the probability that two wrong open answers agree, or ``auto``. ``trusted`` names a column that
    marks labels known to be right. ``preset: official`` is the published rule, ``vote: all``.
    """

    views: Annotated[list[str], Field(min_length=1)] = Field(
        description="The views that vote on each label."
    )
    into: str = Field(default="check", description="The note with the verdict.")
    vote: Literal["all", "any", "judge", "probability", "none"] = Field(
        default="all",
        description="A label is reliable if all views agree with it, if any does, if a judge says so, or by its noise score (probability); none flags nothing.",
    )
    threshold: Proportion = Field(
        default=0.5,
        description="Noise score, 0 to 1, up to which vote: probability calls a label reliable.",
    )
    target_precision: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Flag as many labels as keep this expected precision, between 0 and 1; sets vote: probability.",
    )
    budget_of_flags: _Share | None = Field(
        default=None,
        description="Share of the labels that is flagged, at most, by descending noise score: 0.05 or 5%; sets vote: probability.",
    )
    llm: str | None = Field(default=None, description="The model that vote: judge asks.")
    prompt: str = Field(
        default="robustft/judge", description="The template of the judge, folder/name."
    )
    max_tokens: int = Field(
        default=512, ge=1, description="Tokens per reply of the judge, at most."
    )
    retries: Retries = 2
    retry_temperature: RetryTemperature = 0.7
    collision: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field(
        default="auto",
        description="Probability that two wrong open answers agree, between 0 and 1; auto estimates it.",
    )
    trusted: TrustedColumn = None
    sure: Sure | None = Field(
        default=None, description="The view that votes alone on samples on which it is confident."
    )
    preset: Literal["official"] | None = Field(
        default=None, description="official: the rule of the published code, vote: all."
    )

    @model_validator(mode="before")
    @classmethod
    def _cutoff_sets_vote(cls, values: Any) -> Any:
        cutoffs = ("target_precision", "budget_of_flags")
        if isinstance(values, Mapping) and any(values.get(name) is not None for name in cutoffs):
            return {"vote": "probability", **values}
        return values

    @property
    def cutoff(self) -> str | None:
        """Setting that chooses the cutoff of the ranking, in recipe syntax; None if a vote decides."""
        if self.target_precision is not None:
            return f"target_precision: {self.target_precision:g}"
        return (
            None if self.budget_of_flags is None else f"budget_of_flags: {self.budget_of_flags:g}"
        )

    @property
    def estimates(self) -> bool:
        """Whether flags follow from the size of the noise scores, not from votes or from ranks alone."""
        return self.vote == "probability" and self.budget_of_flags is None

    @model_validator(mode="after")
    def _settings_are_consistent(self) -> CheckConfig:
        if self.target_precision is not None and self.budget_of_flags is not None:
            raise ValueError(
                "target_precision and budget_of_flags both choose how many labels are flagged; leave out one of the two"
            )
        if self.cutoff and (self.vote != "probability" or self.threshold != 0.5):
            other = f"vote: {self.vote}" if self.vote != "probability" else "threshold"
            raise ValueError(
                f"{self.cutoff} chooses which labels are flagged, and so does {other}; leave out one of the two"
            )
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views: {list(self.views)} contains a view twice")
        if self.trusted == REVIEWED:
            raise ValueError(
                f"trusted: {REVIEWED!r} is for robustft.neighbors: people choose the rows that they review, so that no noise "
                "rate can be estimated from them; name a column that marks rows drawn at random, or leave trusted out"
            )
        if self.vote == "judge" and self.llm is None:
            raise ValueError("vote: judge needs a model; name it: llm: expert")
        if self.preset == "official" and self.vote != "all":
            raise ValueError(
                f"preset: official votes all, not {self.vote}; leave out one of the two"
            )
        if self.sure is not None:
            self._validate_sure(self.sure)
        return self

    def _validate_sure(self, sure: Sure) -> None:
        if self.vote not in ("any", "all"):
            raise ValueError(f"sure needs vote: any or all, and vote is {self.vote}; leave it out")
        if sure.view not in self.views or len(self.views) == 1:
            raise ValueError(
                f"sure: {sure.view!r} must be one of several views, and views is {list(self.views)}"
            )
