"""Fewer calls: whom a view is asked about, and the proof that what is skipped cannot change a verdict.

A view of a sample is skipped where earlier views settle its verdict. Under ``any`` one view that agrees with the
label makes it reliable, whatever others say; under ``all`` one view that was asked and does not agree (one without
an answer agrees with nothing) flags it. A skipped view settles nothing by itself. The checker proves each verdict
once more from the views that it has: it refuses one that a skipped answer could change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field, model_validator

from nfilter import JSON, Context, RecipeError, Sample, StageConfig, View
from nfilter_robustft.views import excerpt, is_flagged, was_skipped

Agree = Mapping[str, bool | None]


class Settled(StageConfig):
    """Earlier ``views`` that may settle a verdict, and the ``vote`` of the check that they settle it under."""

    vote: Literal["any", "all"]
    views: Annotated[tuple[str, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _views_differ(self) -> Settled:
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views: {list(self.views)} names a view twice")
        return self

    def __str__(self) -> str:
        """As a recipe has it."""
        return f"{{vote: {self.vote}, views: [{', '.join(self.views)}]}}"


class Asks(Protocol):
    """The settings of a stage that may ask about fewer samples than there are."""

    @property
    def into(self) -> str: ...
    @property
    def settled(self) -> Settled | None: ...
    @property
    def only(self) -> Literal["flagged"] | None: ...
    @property
    def check(self) -> str: ...


def sound(config: Asks) -> None:
    """Refuse settings that contradict one another.

    Raises:
        ValueError: with what to write instead.
    """
    if config.settled is not None and config.into in config.settled.views:
        raise ValueError(
            f"settled: a view cannot settle itself; take {config.into!r} out of its views"
        )
    if config.settled is not None and config.only is not None:
        raise ValueError(
            "settled asks before the check and only: flagged after it; leave out one of the two"
        )


def share_asked(config: Asks) -> tuple[float, float]:
    """The least share of the samples that is asked about, and a guess where nothing is known of the data."""
    some = config.settled is not None or config.only is not None
    return (0.0, 0.5) if some else (1.0, 1.0)


def reads(config: Asks) -> frozenset[str]:
    """The notes that decide whom to ask."""
    settling = config.settled.views if config.settled is not None else ()
    return frozenset((*settling, *((config.check,) if config.only else ())))


def divide(
    chunk: Sequence[Sample], config: Asks, ctx: Context, calls: int
) -> tuple[list[Sample], dict[str, View]]:
    """Whom to ask, and by id the notes on those who are skipped; ``calls`` is what asking takes at most.

    With ``only: flagged``, flagged samples that have not been asked yet; the others get no note.
    """
    if config.only is not None:
        doubted = (sample for sample in chunk if is_flagged(sample, config.check))
        noted = ((sample, View.of(sample, config.into)) for sample in doubted)
        return [each for each, view in noted if view is None or was_skipped(view)], {}
    if config.settled is None:
        return list(chunk), {}
    notes: dict[str, View] = {}
    why = _reasons(chunk, config.settled, ctx)
    for sample, reason in zip(chunk, why, strict=True):
        if reason is not None:
            settled = config.settled.model_dump(mode="json")
            more: dict[str, JSON] = {"skipped": reason, "settled": settled, "saved": calls}
            notes[sample.id] = View(None, calls=0, more=more)
    return [sample for sample in chunk if sample.id not in notes], notes


def _reasons(samples: Sequence[Sample], settled: Settled, ctx: Context) -> list[str | None]:
    """Why each sample's verdict is settled; None where it is not."""
    labels = [ctx.answers.parse(sample.response, sample) for sample in samples]
    asked = [
        [
            (name, view.answer)
            for name in settled.views
            if (view := View.of(s, name)) is not None and view.asked
        ]
        for s in samples
    ]
    # The same pairs as the checker compares, and as there equal answers agree by themselves.
    pairs: dict[tuple[str | None, str | None], None] = dict.fromkeys(
        (label, answer)
        for label, views in zip(labels, asked, strict=True)
        for _, answer in views
        if label is not None and answer is not None and label != answer
    )
    same = dict(zip(pairs, ctx.answers.agree(list(pairs)), strict=True)) if pairs else {}

    def why(label: str | None, views: Sequence[tuple[str, str | None]]) -> str | None:
        for name, answer in views:
            agrees = answer is not None and (label == answer or same.get((label, answer), False))
            if agrees == (settled.vote == "any"):
                says = _says(name, answer, label, agrees=agrees)
                return f"{says}: that settles vote: {settled.vote}"
        return None

    return [why(label, views) for label, views in zip(labels, asked, strict=True)]


def _says(name: str, answer: str | None, label: str | None, *, agrees: bool) -> str:
    if label is None:
        return "no answer can be read in the label, so no view agrees with it"
    if answer is None:
        return f"{name} has no answer, so it does not agree with the label {excerpt(label)}"
    verb = "agrees" if agrees else "disagrees"
    return f"{name} says {excerpt(answer)} and {verb} with the label {excerpt(label)}"


def skipped_views(sample: Sample, views: Sequence[str]) -> tuple[str, ...]:
    """Those of ``views`` that were not asked about ``sample``, as they could not change its verdict."""
    return tuple(name for name in views if was_skipped(View.of(sample, name)))


def prove(stage: str, sample: Sample, vote: str, skipped: Sequence[str], agree: Agree) -> None:
    """Refuse a verdict that the answers of ``skipped`` views could change; ``agree`` is by view, as in the verdict.

    Raises:
        RecipeError: with the settings of both stages, and what to change.
    """
    if not skipped:
        return
    views = {name: View.of(sample, name) for name in skipped}
    found = {name: view.more.get("settled") for name, view in views.items() if view is not None}
    under = {name: Settled.model_validate(value) for name, value in found.items() if value}
    name = next((name for name, each in under.items() if each.vote != vote), skipped[0])
    start = (
        f"{stage}: {name!r} was not asked about sample {sample.id!r}: its stage has settled: "
        f"{under.get(name)}, and {stage} has vote: {vote}, views: [{', '.join(agree)}]"
    )
    if vote not in ("any", "all") or any(each.vote != vote for each in under.values()):
        raise RecipeError(
            f"{start}, which needs its answer; leave settled out of that stage, or vote as it says"
        )
    asked = [agrees for view, agrees in agree.items() if view not in skipped]
    proved = any(asked) if vote == "any" else not all(asked)
    if not proved:
        raise RecipeError(
            f"{start}, and the views that were asked do not settle the verdict; name under views of {stage} all "
            "that settled names, and let no stage between the two change labels or answers"
        )
