"""Pilot of a view: ask about a few rows first, and skip the others if the view is no better than chance.

``fit`` asks about the rows whose ids have the smallest hashes: they are spread over the dataset and equal in every run.
After every 64 rows, the view's answers are tested against the noisy labels (``chance_test``). If the view is no better
than chance, it is not asked about the other rows, every note contains ``weak``, and the view has no vote and proposes
nothing. Otherwise ``process`` asks about every row and repeats the pilot's requests, which the journal answers.

There is no pilot with fewer than 64 readable labels, nor if the stage asks about some samples only (``settled``,
``only``): their labels are not representative.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

import numpy as np

from nfilter import JSON, Context, Sample, State, View, hash_of, place_of
from nfilter_robustft.keys import key_of, options_of
from nfilter_robustft.skipping import AskSettings, split_asked
from nfilter_robustft.statistics.chance_test import ChanceTest, compare_with_chance
from nfilter_robustft.views import add_notes

STEP: Final = 64
MAX_ROWS: Final = 1024
_KEYED_KINDS: Final = frozenset({"choice", "label", "number", "exact"})  # answers agree iff equal

WeakPolicy = Literal["skip", "ask"]
"""How to treat the other rows of a view that is no better than chance on its pilot rows."""

Ask = Callable[[Sequence[Sample]], Sequence[tuple[str | None, bool]]]
"""Function that returns (first answer, whether the call succeeded) per sample; failed calls are not evidence."""


class PilotSettings(AskSettings, Protocol):
    """Settings of a stage with a pilot."""

    @property
    def weak(self) -> WeakPolicy: ...
    @property
    def llm(self) -> str: ...


def pilot(stream: Iterable[Sample], config: PilotSettings, ctx: Context, ask: Ask) -> State:
    """Ask about pilot rows until the test decides; return an empty state if there is no pilot.

    The state contains the ids of the pilot rows and, if the view is weak, the reason under ``why``.
    """
    if config.weak == "ask" or config.only is not None:
        return State()
    rows, total = _pilot_rows(stream, ctx)
    if len(rows) < STEP or split_asked(rows, config, ctx, calls=1)[1]:
        return State()
    keys, answers, agree, asked = _Keys(rows, ctx), list[str | None](), list[bool](), 0
    answered: list[Sample] = []
    result: ChanceTest | None = None
    while asked < len(rows) and (result is None or result.verdict == "open"):
        block = rows[asked : asked + STEP]
        asked += len(block)
        for sample, (answer, succeeded) in zip(block, ask(block), strict=True):
            if succeeded:
                answered.append(sample)
                answers.append(answer)
        first = len(agree)
        agree += ctx.answers.agree(
            [
                (keys.label(sample), answer)
                for sample, answer in zip(answered[first:], answers[first:], strict=True)
            ]
        )
        if len(answered) >= STEP // 2:
            result = _run_test(answered, answers, agree, keys, ctx)
    if result is None:
        return State()
    return _pilot_state(result, rows[:asked], total, config, ctx)


def weak_view_notes(
    chunk: Sequence[Sample],
    state: State,
    ask: Callable[[Sequence[Sample]], Mapping[str, View]],
    calls: int,
) -> dict[str, View]:
    """Return the notes of a weak view by id.

    ``ask`` returns the notes of pilot rows; ``calls`` is the number of calls saved per other row.
    """
    reason = str(state.values["why"])
    piloted, others = split_piloted(chunk, state)
    notes = {
        key: replace(view, answer=None, failure=reason).with_more(answered=view.answer, weak=reason)
        for key, view in ask(piloted).items()
    }
    more: dict[str, JSON] = {"skipped": reason, "weak": reason, "saved": calls}
    return notes | {sample.id: View(None, calls=0, more=more) for sample in others}


def add_weak_notes(chunk: Sequence[Sample], into: str, notes: Mapping[str, View]) -> list[Sample]:
    """Return the samples of ``chunk`` with their weak notes, each kept with that reason."""
    noted = add_notes(chunk, into, notes)
    return [sample.keep(str(notes[sample.id].more["weak"])) for sample in noted]


def split_piloted(
    chunk: Sequence[Sample], state: State | None
) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of ``chunk`` that the pilot asked about, and the others."""
    keys = state.arrays.get("asked") if state is not None else None
    if keys is None:
        return [], list(chunk)
    piloted = {sample.id for sample in chunk if place_of(keys, sample.id) is not None}
    return [s for s in chunk if s.id in piloted], [s for s in chunk if s.id not in piloted]


def is_weak(state: State | None) -> bool:
    """Return whether the pilot found the view no better than chance."""
    return state is not None and "why" in state.values


def _pilot_rows(stream: Iterable[Sample], ctx: Context) -> tuple[list[Sample], int]:
    """Return at most 1,024 samples with a readable label, by hash of id, and the number of all samples."""
    total = 0

    def hashed() -> Iterator[tuple[int, int, Sample]]:
        nonlocal total
        for index, sample in enumerate(stream):
            total += 1
            # The index breaks ties of hashes: samples cannot be compared.
            yield hash_of(sample.id), index, sample

    smallest = heapq.nsmallest(2 * MAX_ROWS, hashed())
    readable = (s for _, _, s in smallest if ctx.answers.parse(s.response, s) is not None)
    return list(readable)[:MAX_ROWS], total


class _Keys:
    """Answers as countable keys: option texts if all rows have the same options, else canonical answers."""

    def __init__(self, rows: Sequence[Sample], ctx: Context) -> None:
        self.ctx = ctx
        sets = {frozenset(options_of(sample, ctx)) for sample in rows}
        self.by_text = len(sets) == 1 and sets != {frozenset()}

    def label(self, sample: Sample) -> str | None:
        return self.ctx.answers.parse(sample.response, sample)

    def key(self, answer: str | None, sample: Sample) -> str | None:
        return key_of(answer, sample, self.ctx) if self.by_text else answer


def _run_test(
    rows: Sequence[Sample],
    answers: Sequence[str | None],
    agree: Sequence[bool],
    keys: _Keys,
    ctx: Context,
) -> ChanceTest:
    labels = [keys.label(sample) for sample in rows]
    if ctx.answers.kind in _KEYED_KINDS:
        label_keys = [keys.key(label, row) or "" for label, row in zip(labels, rows, strict=True)]
        answer_keys = [keys.key(answer, row) for answer, row in zip(answers, rows, strict=True)]
        return compare_with_chance(label_keys, answer_keys, agree)
    # Texts and span sets can agree without being equal: compare answers with the labels of the next rows.
    shifted = [*labels[1:], labels[0]]
    pairs = [(label, a) for label, a in zip(shifted, answers, strict=True) if a is not None]
    hits = sum(ctx.answers.agree(pairs)) if pairs else 0
    chance = (hits + 0.5) / (len(pairs) + 1)
    return compare_with_chance([label or "" for label in labels], answers, agree, chance)


def _pilot_state(
    result: ChanceTest, asked: Sequence[Sample], total: int, config: PilotSettings, ctx: Context
) -> State:
    ids = np.sort(np.array([hash_of(sample.id) for sample in asked], dtype=np.uint64))
    figures = _describe(result)
    if result.verdict != "weak":
        undecided = "" if result.verdict == "useful" else "; too close to chance to decide, so"
        ctx.log.info(f"{config.into} {figures}{undecided}: all {total} rows are asked")
        return State({"report": {"pilot": {**result.to_json(), "asked": total}}}, {"asked": ids})
    biased = (
        "; its answers are informative about the labels, but not by agreeing with them"
        if result.biased
        else ""
    )
    reason = f"no better than chance: {config.into} {figures}{biased}"
    ctx.log.warning(
        f"{config.into} is no better than chance: it {figures}{biased}. The other {total - len(asked)} rows are not asked, and "
        f"{config.into} has no vote. Remedies: a stronger model (llm: in place of {config.llm}), or a view without one "
        "(robustft.neighbors, with trusted: COLUMN if some labels are known to be right). weak: ask asks about all rows "
        "in any case"
    )
    return State(
        {"why": reason, "report": {"pilot": {**result.to_json(), "asked": len(asked)}}},
        {"asked": ids},
    )


def _describe(result: ChanceTest) -> str:
    missing = f", {result.no_answer:.0%} without an answer" if result.no_answer >= 0.05 else ""
    return (
        f"agrees with the label on {result.agreement:.1%} of the pilot rows, chance is {result.chance:.1%}{missing} "
        f"({result.rows} rows)"
    )
