"""Settings of ``panel.review``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nfilter import (
    GeneratorName,
    PromptName,
    ReplyTokens,
    Retries,
    StageConfig,
    Temperature,
    Tools,
)

_TOOLS = Field(default=(), description="Tools that it may call, each a name or {use: NAME, ...}.")


class ReviewerConfig(StageConfig):
    """One reviewer: a model, and what it pays attention to."""

    llm: GeneratorName
    name: str = Field(
        default="", max_length=40, description="Its name in notes; by default its place, 1 to 9."
    )
    instructions: str = Field(
        default="", max_length=4000, description="What it pays attention to; a part of its prompt."
    )
    prompt: str = Field(
        default="panel/answer", description="The template of its first answer, folder/name."
    )
    tools: Tools = _TOOLS


class ChairConfig(StageConfig):
    """The chair, which reads the answers of all reviewers and decides."""

    llm: GeneratorName
    instructions: str = Field(
        default="", max_length=4000, description="What it pays attention to; a part of its prompt."
    )
    prompt: PromptName = "panel/chair"
    tools: Tools = _TOOLS


class PanelConfig(StageConfig):
    """``reviewers`` answer independently. If they disagree, each sees the answers and reasons of the others once (``exchange``)
    and answers again.

    ``decide: vote``: an answer needs more than half of the votes cast, and ``quorum`` votes. Reviewers are asked only as
    long as a vote can change the outcome. ``decide: chair``: the ``chair`` decides, unless all agree. ``views`` are
    answers of earlier stages, shown to all without names.

    A row without a decision keeps its label and stays flagged, or is dropped (``undecided``).
    """

    reviewers: tuple[ReviewerConfig, ...] = Field(
        min_length=2, max_length=9, description="The reviewers, 2 to 9."
    )
    into: str = Field(
        default="panel", description="The note with the decision: a view and a verdict."
    )
    check: str | None = Field(
        default=None,
        description="The verdict note of an earlier stage: only rows that it flags are reviewed; null reviews every row.",
    )
    views: tuple[str, ...] = Field(
        default=(), description="Views of earlier stages whose answers the reviewers see."
    )
    exchange: bool = Field(
        default=True,
        description="Whether reviewers that disagree see each other's answers and reasons once.",
    )
    exchange_prompt: str = Field(
        default="panel/exchange", description="The template of the exchange, folder/name."
    )
    decide: Literal["vote", "chair"] = Field(default="vote", description="Who decides.")
    chair: ChairConfig | None = Field(
        default=None, description="The chair of decide: chair, {llm: MODEL}."
    )
    quorum: int = Field(default=2, ge=1, le=9, description="Votes that a decision needs, at least.")
    undecided: Literal["keep", "drop"] = Field(
        default="keep",
        description="What happens to a row without a decision: it keeps its label and is flagged, or is dropped.",
    )
    write: Literal["auto", "answer", "text", "nothing"] = Field(
        default="auto",
        description="What becomes the response: the answer, the reply with its reasons, by the form of the old response (auto), or nothing: rows are only flagged.",
    )
    rounds: int = Field(
        default=4,
        ge=2,
        le=32,
        description="Calls of a model with tools per reply, at most, 2 to 32; the last one has to answer.",
    )
    max_tokens: ReplyTokens = 1024
    temperature: Temperature = 0.0
    retries: Retries = 2
    retry_temperature: float = Field(
        default=0.7,
        gt=0,
        description="Sampling temperature of repeated requests; the higher of the two temperatures is used.",
    )
    reason_characters: int = Field(
        default=1500, ge=1, le=20_000, description="Characters of each reason that others see."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the reviewers."""
        return tuple(each.name or str(place) for place, each in enumerate(self.reviewers, start=1))

    @model_validator(mode="after")
    def _fits(self) -> PanelConfig:
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"reviewers: the names {list(self.names)} are not all different; set name: for each"
            )
        if self.temperature == 0:
            seen = [each.model_dump(exclude={"name"}) for each in self.reviewers]
            twice = [place for place, each in enumerate(seen) if each in seen[:place]]
            if twice:
                raise ValueError(
                    f"reviewers: number {twice[0] + 1} has the settings of an earlier one, and at temperature 0 it gives the same "
                    "answers; give it other instructions, or set temperature: 0.7"
                )
        if self.decide == "chair" and self.chair is None:
            raise ValueError("chair is missing; write chair: {llm: MODEL}, or decide: vote")
        if self.decide == "vote" and self.chair is not None:
            raise ValueError(
                "chair: is used by decide: chair alone; write decide: chair, or leave chair out"
            )
        if self.quorum > len(self.reviewers):
            raise ValueError(
                f"quorum: {self.quorum} votes of {len(self.reviewers)} reviewers; write quorum: {len(self.reviewers)}, or less"
            )
        return self
