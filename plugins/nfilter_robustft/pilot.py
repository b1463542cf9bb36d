"""The first rows of a view: is it worth asking about the others? (``worth`` says how that is told.)

A stage that asks a model first asks about some rows, in ``fit``: those whose ids have the smallest hashes, so that they lie
all over the data and are the same in every run. After every 64 of them the view is judged by the noisy labels. Where it is
no better than chance, nobody is asked about the other rows, every sample's note says so under ``weak``, and the view
has no vote and proposes nothing. Else it is asked about every row; the requests of the first rows are those
that ``process`` makes, so that they are answered from the journal then, and a run that was stopped pays for none twice.

There is no pilot with fewer than 64 labels that can be read, nor where the stage asks about some samples alone
(``settled``, ``only``): what their labels have in common is no measure of the view.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

import numpy as np

from nfilter import JSON, Context, Sample, State, View, hash_of, place_of
from nfilter_robustft.keys import key_of, options_of
from nfilter_robustft.lazy import Asks, divide
from nfilter_robustft.views import with_notes
from nfilter_robustft.worth import Worth, worth

STEP: Final = 64
MOST: Final = 1024
_COUNTED: Final = frozenset({"choice", "label", "number", "exact"})  # equal keys are equal answers

Weak = Literal["skip", "ask"]
"""What becomes of a view that is no better than chance on its first rows."""

Ask = Callable[[Sequence[Sample]], Sequence[tuple[str | None, bool]]]
"""The first answer to each sample, and whether it came: a call that failed says nothing of the view."""


class Piloted(Asks, Protocol):
    """The settings of a stage that may find its view weak."""

    @property
    def weak(self) -> Weak: ...
    @property
    def llm(self) -> str: ...


def pilot(stream: Iterable[Sample], config: Piloted, ctx: Context, ask: Ask) -> State:
    """Ask about the first rows until it is clear what the view is worth; nothing where there is no pilot.

    The state has the ids of the rows that were asked, and where the view is weak, ``why`` (a sentence).
    """
    if config.weak == "ask" or config.only is not None:
        return State()
    rows, total = _first(stream, ctx)
    if len(rows) < STEP or divide(rows, config, ctx, calls=1)[1]:
        return State()
    labels, answers, agree, asked = _Keys(rows, ctx), list[str | None](), list[bool](), 0
    kept: list[Sample] = []
    found: Worth | None = None
    while asked < len(rows) and (found is None or found.verdict == "open"):
        block = rows[asked : asked + STEP]
        asked += len(block)
        for sample, (answer, came) in zip(block, ask(block), strict=True):
            if came:
                kept.append(sample)
                answers.append(answer)
        agree += ctx.answers.agree(
            [
                (labels.label(sample), answer)
                for sample, answer in zip(kept[len(agree) :], answers[len(agree) :], strict=True)
            ]
        )
        if len(kept) >= STEP // 2:
            found = _judged(kept, answers, agree, labels, ctx)
    if found is None:
        return State()
    return _told(found, rows[:asked], total, config, ctx)


def notes_of_weak(
    chunk: Sequence[Sample],
    state: State,
    asked: Callable[[Sequence[Sample]], Mapping[str, View]],
    calls: int,
) -> dict[str, View]:
    """By id the notes of a view that is weak; ``asked`` gives those of the rows that were asked, ``calls`` is what one costs."""
    why = str(state.values["why"])
    first, _ = of_first(chunk, state)
    notes = {
        key: replace(view, answer=None, failure=why).with_more(answered=view.answer, weak=why)
        for key, view in asked(first).items()
    }
    for sample in chunk:
        if sample.id not in notes:
            more: dict[str, JSON] = {"skipped": why, "weak": why, "saved": calls}
            notes[sample.id] = View(None, calls=0, more=more)
    return notes


def noted_as_weak(chunk: Sequence[Sample], into: str, notes: Mapping[str, View]) -> list[Sample]:
    """The samples of ``chunk`` with those notes, each with its reason on record."""
    noted = with_notes(chunk, into, notes)
    return [sample.keep(str(notes[sample.id].more["weak"])) for sample in noted]


def of_first(chunk: Sequence[Sample], state: State | None) -> tuple[list[Sample], list[Sample]]:
    """The samples of ``chunk`` that the pilot asked about, and the others."""
    keys = state.arrays.get("asked") if state is not None else None
    if keys is None:
        return [], list(chunk)
    first = {sample.id for sample in chunk if place_of(keys, sample.id) is not None}
    return [s for s in chunk if s.id in first], [s for s in chunk if s.id not in first]


def is_weak(state: State | None) -> bool:
    """Whether the pilot found the view to be no better than chance."""
    return state is not None and "why" in state.values


def _first(stream: Iterable[Sample], ctx: Context) -> tuple[list[Sample], int]:
    """At most 1,024 samples with a label that can be read, by the hashes of their ids; and how many samples there are."""
    total = 0

    def ranked() -> Iterator[tuple[int, int, Sample]]:
        nonlocal total
        for place, sample in enumerate(stream):
            total += 1
            # Ids are unique; the place keeps samples from being compared.
            yield hash_of(sample.id), place, sample

    nearest = heapq.nsmallest(2 * MOST, ranked())
    readable = (s for _, _, s in nearest if ctx.answers.parse(s.response, s) is not None)
    return list(readable)[:MOST], total


class _Keys:
    """Answers as keys whose frequencies can be counted: the text of an option where all rows have the same ones."""

    def __init__(self, rows: Sequence[Sample], ctx: Context) -> None:
        self.ctx = ctx
        sets = {frozenset(options_of(sample, ctx)) for sample in rows}
        self.by_text = len(sets) == 1 and sets != {frozenset()}

    def label(self, sample: Sample) -> str | None:
        return self.ctx.answers.parse(sample.response, sample)

    def key(self, answer: str | None, sample: Sample) -> str | None:
        return key_of(answer, sample, self.ctx) if self.by_text else answer


def _judged(
    rows: Sequence[Sample],
    answers: Sequence[str | None],
    agree: Sequence[bool],
    keys: _Keys,
    ctx: Context,
) -> Worth:
    labels = [keys.label(sample) for sample in rows]
    if ctx.answers.kind in _COUNTED:
        known = [keys.key(label, sample) or "" for label, sample in zip(labels, rows, strict=True)]
        said = [keys.key(answer, sample) for answer, sample in zip(answers, rows, strict=True)]
        return worth(known, said, agree)
    # Texts and sets of spans agree without being equal: answers against the labels of the next rows.
    shuffled = [*labels[1:], labels[0]]
    pairs = [(label, a) for label, a in zip(shuffled, answers, strict=True) if a is not None]
    hits = sum(ctx.answers.agree(pairs)) if pairs else 0
    chance = (hits + 0.5) / (len(pairs) + 1)
    return worth([label or "" for label in labels], answers, agree, chance)


def _told(
    found: Worth, asked: Sequence[Sample], total: int, config: Piloted, ctx: Context
) -> State:
    ids = np.sort(np.array([hash_of(sample.id) for sample in asked], dtype=np.uint64))
    figures = f"{_figure(found)} ({found.rows} rows)"
    if found.verdict != "weak":
        clear = "" if found.verdict == "useful" else "; too close to chance to tell, so"
        ctx.log.info(f"{config.into} {figures}{clear}: all {total} rows are asked")
        return State({"report": {"pilot": {**found.to_json(), "asked": total}}}, {"asked": ids})
    biased = (
        "; its answers do tell something of the labels, but by other answers than they name"
        if found.biased
        else ""
    )
    why = f"no better than chance: {config.into} {figures}{biased}"
    ctx.log.warning(
        f"{config.into} is no better than chance: it {figures}{biased}. The other {total - len(asked)} rows are not asked, and "
        f"{config.into} has no vote. A stronger model (llm: in place of {config.llm}) or a view without one "
        "(robustft.neighbors, with trusted: COLUMN where some labels are known to be right) can tell; weak: ask asks all "
        "the same"
    )
    return State(
        {"why": why, "report": {"pilot": {**found.to_json(), "asked": len(asked)}}}, {"asked": ids}
    )


def _figure(found: Worth) -> str:
    """What the pilot saw, in words."""
    silent = f", and has none in {found.no_answer:.0%}" if found.no_answer >= 0.05 else ""
    return (
        f"answers as the label does in {found.agreement:.1%} of the first rows, where {found.chance:.1%} would be chance"
        f"{silent}"
    )
