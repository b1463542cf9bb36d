"""``selflabel.select``: SelfSelect, rows whose label the model agrees with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    Encodes,
    ModelNeed,
    Sample,
    Scores,
    Share,
    StageConfig,
    State,
    Verdict,
    place_of,
    rows_by_id,
)
from nfilter_selflabel.agreement import agreeing, views_of, why_no_answer

_BATCH = 64


class SelectConfig(StageConfig):
    """``by: answer`` reads ``view``; ``by: loss`` reads ``model``, ``keep`` and ``max_length``."""

    by: Literal["answer", "loss"] = Field(
        default="answer",
        description="answer: keep rows whose label is the model's own answer; loss: keep the rows with the lowest loss.",
    )
    view: str = Field(default="base", description="The view with the model's own answer.")
    model: str = Field(default="student", description="The model whose loss is read.")
    keep: Share = Field(
        default=0.5, description="Share of the samples that is kept by loss, above 0, at most 1."
    )
    max_length: int = Field(
        default=2048, ge=2, description="Tokens per sample that are scored, at most, at least 2."
    )
    into: str = Field(default="check", description="The note with the verdict.")


class Select:
    """Stage that drops the samples whose label the model itself does not believe, and relabels none.

    ``answer``: the label is dropped if the model's own answer differs or is missing; the noise score is 0 or 1. ``loss``: of n
    samples, max(1, int(n * keep)) with the lowest mean loss of the response are kept, ties by id; the noise score is the rank
    of the loss, from 0 to 1. A baseline of RobustFT (arXiv 2412.14922, Table 1), where it is worse than training on
    all rows on several tasks: a model is sure of its own mistakes. Pinned samples are kept. ``robustft.random`` with the
    same number of rows is the control.
    """

    name: ClassVar[str] = "selflabel.select"
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> Contract:
        own, by_loss = frozenset({config.into}), config.by == "loss"
        needs = (Encodes, Scores) if by_loss else ()
        return Contract(
            reads=frozenset() if by_loss else frozenset({config.view}),
            writes=own,
            verdicts=own,
            needs=tuple(ModelNeed(config.model, each, field="model") for each in needs),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Rank the samples by their loss; the state takes 16 bytes per sample, and nothing by answer."""
        if self.config.by == "answer":
            return State()
        model = ctx.model(self.config.model)
        found: list[tuple[float, str]] = []
        rows = iter(stream)
        while batch := list(islice(rows, _BATCH)):
            encoded = model.encode(batch, max_length=self.config.max_length, turns="last")
            scored = [one for one in encoded if one.predicted.any()]
            losses = dict(zip([one.id for one in scored], model.score(scored), strict=True))
            for sample in batch:
                own = losses.get(sample.id)
                mean = math.inf if own is None else float(np.nanmean(own, dtype=float))
                found.append((mean, sample.id))
        found.sort()
        values: dict[str, JSON] = {
            "n": len(found),
            "kept": max(1, int(len(found) * self.config.keep)),
        }
        ids = [name for _, name in found]
        return State(values, rows_by_id(ids, ranks=np.arange(len(found))))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        if self.config.by == "loss":
            return [self._by_loss(sample, state) for sample in chunk]
        views = views_of(chunk, self.config.view)
        out = []
        for sample, view, same in zip(chunk, views, agreeing(chunk, views, ctx), strict=True):
            answered = view.asked and view.answer is not None
            different = "the own answer differs from the label"
            missing = f"the model has no own answer: {why_no_answer(view)}"
            reason = "the own answer agrees with the label" if same else different
            out.append(self._decided(sample, not same, float(not same), reason if answered else missing))  # fmt: skip
        return out

    def _by_loss(self, sample: Sample, state: State) -> Sample:
        n, kept = (int(str(state.values[name])) for name in ("n", "kept"))
        place = place_of(state.arrays["ids"], sample.id)
        rank = n - 1 if place is None else int(state.arrays["ranks"][place])
        reason = f"loss of rank {rank + 1} of {n}; the first {kept} are kept"
        return self._decided(sample, rank >= kept, rank / max(1, n - 1), reason)

    def _decided(self, sample: Sample, flagged: bool, score: float, reason: str) -> Sample:
        flagged = flagged and not sample.pinned
        verdict = Verdict(flagged=flagged, noise_score=score)
        noted = sample.note(self.config.into, verdict.to_json())
        if sample.pinned:
            return noted.keep("pinned by a user: not changed")
        return noted.drop(reason) if flagged else noted.keep(reason)
