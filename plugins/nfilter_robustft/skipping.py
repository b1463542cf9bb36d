"""Skipping of model calls whose answers cannot change a verdict.

A view skips a sample if earlier views settle its verdict. Under ``any``, one view that agrees with the label makes it
reliable; under ``all``, one asked view that does not agree (a view without an answer agrees with no label) flags it. A
skipped view settles nothing. The check verifies every verdict and refuses one that a skipped answer could change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field, model_validator

from nfilter import JSON, Context, RecipeError, Sample, StageConfig, View, excerpt
from nfilter_robustft.views import is_flagged, was_skipped

Agree = Mapping[str, bool | None]


class Settled(StageConfig):
    """Earlier ``views`` that may settle a verdict, and the ``vote`` that the check must use."""

    vote: Literal["any", "all"] = Field(description="The vote of the check: any or all.")
    views: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="The earlier views that may settle a verdict."
    )

    @model_validator(mode="after")
    def _views_differ(self) -> Settled:
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views: {list(self.views)} contains a view twice")
        return self

    def __str__(self) -> str:
        """Return the setting in recipe syntax."""
        return f"{{vote: {self.vote}, views: [{', '.join(self.views)}]}}"


class AskSettings(Protocol):
    """Settings of a stage that may skip samples."""

    @property
    def into(self) -> str: ...
    @property
    def settled(self) -> Settled | None: ...
    @property
    def only(self) -> Literal["flagged"] | None: ...
    @property
    def check(self) -> str: ...


def validate(config: AskSettings) -> None:
    """Check that the settings do not contradict one another.

    Raises:
        ValueError: If they do; the message says what to write instead.
    """
    if config.settled is not None and config.into in config.settled.views:
        raise ValueError(
            f"settled: a view cannot settle itself; remove {config.into!r} from its views"
        )
    if config.settled is not None and config.only is not None:
        raise ValueError(
            "settled applies before the check and only: flagged after it; leave out one of the two"
        )


def asked_share(config: AskSettings) -> tuple[float, float]:
    """Return the minimum and the expected share of samples that a stage asks about."""
    some = config.settled is not None or config.only is not None
    return (0.0, 0.5) if some else (1.0, 1.0)


def notes_read(config: AskSettings) -> frozenset[str]:
    """Return the notes that decide which samples are asked about."""
    settling = config.settled.views if config.settled is not None else ()
    return frozenset((*settling, *((config.check,) if config.only else ())))


def split_asked(
    chunk: Sequence[Sample], config: AskSettings, ctx: Context, calls: int
) -> tuple[list[Sample], dict[str, View]]:
    """Return the samples to ask about, and the notes of skipped samples by id.

    With ``only: flagged``, the samples are the flagged ones not asked yet, and the others get no note.
    ``calls`` is the maximum number of calls per sample.
    """
    if config.only is not None:
        flagged = (sample for sample in chunk if is_flagged(sample, config.check))
        noted = ((sample, View.of(sample, config.into)) for sample in flagged)
        return [each for each, view in noted if view is None or was_skipped(view)], {}
    if config.settled is None:
        return list(chunk), {}
    notes: dict[str, View] = {}
    reasons = _reasons_settled(chunk, config.settled, ctx)
    for sample, reason in zip(chunk, reasons, strict=True):
        if reason is not None:
            settled = config.settled.model_dump(mode="json")
            more: dict[str, JSON] = {"skipped": reason, "settled": settled, "saved": calls}
            notes[sample.id] = View(None, calls=0, more=more)
    return [sample for sample in chunk if sample.id not in notes], notes


def _reasons_settled(samples: Sequence[Sample], settled: Settled, ctx: Context) -> list[str | None]:
    """Return, per sample, the reason that its verdict is settled, or None."""
    labels = [ctx.answers.parse(sample.response, sample) for sample in samples]
    asked = [
        [
            (name, view.answer)
            for name in settled.views
            if (view := View.of(s, name)) is not None and view.asked
        ]
        for s in samples
    ]
    # Compare the same pairs as the check; equal answers agree without a comparison.
    pairs: dict[tuple[str | None, str | None], None] = dict.fromkeys(
        (label, answer)
        for label, views in zip(labels, asked, strict=True)
        for _, answer in views
        if label is not None and answer is not None and label != answer
    )
    same = dict(zip(pairs, ctx.answers.agree(list(pairs)), strict=True)) if pairs else {}

    def reason(label: str | None, views: Sequence[tuple[str, str | None]]) -> str | None:
        for name, answer in views:
            agrees = answer is not None and (label == answer or same.get((label, answer), False))
            if agrees == (settled.vote == "any"):
                vote = _describe_vote(name, answer, label, agrees=agrees)
                return f"{vote}: that settles vote: {settled.vote}"
        return None

    return [reason(label, views) for label, views in zip(labels, asked, strict=True)]


def _describe_vote(name: str, answer: str | None, label: str | None, *, agrees: bool) -> str:
    if label is None:
        return "no answer can be read in the label, so no view agrees with it"
    if answer is None:
        return f"{name} has no answer, so it does not agree with the label {excerpt(label)}"
    verb = "agrees" if agrees else "disagrees"
    return f"{name} answers {excerpt(answer)} and {verb} with the label {excerpt(label)}"


def skipped_views(sample: Sample, views: Sequence[str]) -> tuple[str, ...]:
    """Return the ``views`` that skipped ``sample``."""
    return tuple(name for name in views if was_skipped(View.of(sample, name)))


def verify_skips(
    stage: str, sample: Sample, vote: str, skipped: Sequence[str], agree: Agree
) -> None:
    """Check that no answer of the ``skipped`` views could change the verdict.

    Raises:
        RecipeError: If one could; the message contains the settings of both stages and what to change.
    """
    if not skipped:
        return
    views = {name: View.of(sample, name) for name in skipped}
    values = {name: view.more.get("settled") for name, view in views.items() if view is not None}
    settings = {name: Settled.model_validate(value) for name, value in values.items() if value}
    name = next((name for name, each in settings.items() if each.vote != vote), skipped[0])
    start = (
        f"{stage}: {name!r} was not asked about sample {sample.id!r}: its stage has settled: "
        f"{settings.get(name)}, and {stage} has vote: {vote}, views: [{', '.join(agree)}]"
    )
    if vote not in ("any", "all") or any(each.vote != vote for each in settings.values()):
        raise RecipeError(
            f"{start}, which needs its answer; leave settled out of that stage, or use its vote"
        )
    asked = [agrees for view, agrees in agree.items() if view not in skipped]
    settles = any(asked) if vote == "any" else not all(asked)
    if not settles:
        raise RecipeError(
            f"{start}, and the views that were asked do not settle the verdict; add to views of {stage} every view "
            "of settled, and let no stage between the two change labels or answers"
        )
