"""``robustft.select``: of the relabelled samples, those that the model was surest of (RobustFT, Eqs. 7 and 8)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from nfilter import (
    Context,
    Contract,
    ContractError,
    ModelError,
    Ranks,
    Sample,
    StageConfig,
    State,
    View,
)
from nfilter_robustft.ranks import rank_of, ranked, share_of
from nfilter_robustft.views import is_flagged

RANDOM = "random"
INSTEAD = "review"


class SelectConfig(StageConfig):
    """``by``: the view whose nll ranks, or ``random`` for the control. ``keep``: the share of flagged samples kept.

    ``rank: agreement`` is for a model without log-probabilities: self-consistency, the share of several drawn answers
    that are the same (``robustft.answer`` with ``samples``), ranks in place of the nll.

    ``check`` is the verdict note; null does without a checker: every sample is ranked. ``preset: official`` keeps
    what is strictly under the median nll, as the published code does, and takes no ``keep``. Not as published: samples
    that the review dropped are not in the median, and those without an nll are never kept.
    """

    by: str = "context"
    keep: float = Field(default=0.5, ge=0, le=1)
    check: str | None = "check"
    preset: Literal["official"] | None = None
    rank: Literal["nll", "agreement"] = "nll"

    @model_validator(mode="after")
    def _official(self) -> SelectConfig:
        other = self.by == RANDOM or self.rank != "nll" or "keep" in self.model_fields_set
        if self.preset == "official" and other:
            raise ValueError(
                "preset: official keeps what is under the median nll of a view; leave out keep, rank and by: random"
            )
        return self


class Select:
    """Keeps the share of flagged samples with the lowest nll and drops the others, each with rank, M and nll.

    M flagged samples are left; floor(keep * M) are kept, ties by id. A missing nll ranks last; where none has one,
    the nll of ``review`` ranks instead. Before ``robustft.review`` it saves the reviews of what it drops.
    """

    name: ClassVar[str] = "robustft.select"
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> Contract:
        """Reads the verdict and the ranking view; writes nothing."""
        reads = {config.check} if config.check else set()
        if config.by != RANDOM:
            reads.add(config.by)
        # Where all or none of them are kept, nothing ranks.
        ranked = config.by != RANDOM and (config.preset is not None or 0 < config.keep < 1)
        ranks = (Ranks(config.by, config.rank, _instead(config)),) if ranked else ()
        return Contract(reads=frozenset(reads), ranks=ranks)

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Rank the flagged samples: 16 bytes a sample are kept, the hash of its id and its rank."""
        by = self.config.by
        doubted: list[tuple[float, float, str]] = []
        total = 0
        for sample in stream:
            total += 1
            if is_flagged(sample, self.config.check):
                value, instead = (self._value(sample, name, ctx) for name in (by, INSTEAD))
                doubted.append((value, instead, sample.id))
        if doubted and all(math.isinf(value) for value, _, _ in doubted):
            # Without a clean sample there is no context view; the reviewed answers have an nll all the same.
            if any(math.isfinite(instead) for _, instead, _ in doubted):
                ctx.log.warning(
                    f"no flagged sample has an {self.config.rank} in {by!r}; ranking by {INSTEAD!r}"
                )
                by = INSTEAD
                doubted = [(instead, instead, name) for _, instead, name in doubted]
            elif 0 < self.config.keep < 1:
                raise ModelError(_no_rank(self.config, len(doubted)))
        flagged = sorted((value, name) for value, _, name in doubted)
        m = len(flagged)
        kept = self._count([value for value, _ in flagged])
        missing = sum(math.isinf(value) for value, _ in flagged)
        if missing and (self.config.preset or 0 < self.config.keep < 1):
            ctx.log.warning(
                f"{missing} of {m} flagged samples have no {self.config.rank} in {by!r}; they rank last"
            )
        if self.config.rank == "agreement" and m > 1 and flagged[-1][0] == -1:
            ctx.log.warning(
                f"all draws of each of {m} flagged samples agree, so that their ids decide alone: raise the temperature, "
                "or see whether the server draws at all (some answer greedily unless the model's settings say do_sample)"
            )
        ctx.log.info(_told(self.config, kept, m, total))
        return State(
            {"m": m, "kept": kept, "missing": missing, "by": by},
            ranked([name for _, name in flagged]),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Keep or drop each sample of the chunk."""
        return [self._decide(sample, state, ctx) for sample in chunk]

    def _decide(self, sample: Sample, state: State, ctx: Context) -> Sample:
        if not is_flagged(sample, self.config.check):
            return sample.keep("not flagged: selection ranks flagged samples only")
        values: Any = state.values
        m, kept = values["m"], values["kept"]
        rank = rank_of(sample.id, state.arrays)
        if rank is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} is flagged and was not ranked; verdicts must not change between"
            )
        if not self.config.preset and self.config.keep == 0:
            return sample.drop(f"not selected: keep 0 drops each of the {m} flagged samples")
        by = values["by"]
        value = self._value(sample, by, ctx)
        where = f"rank {rank} of M={m} by {_measure(by, value, self.config.rank)}"
        rule = "strictly under the median" if self.config.preset else f"keep {self.config.keep:g}"
        if rank <= kept:
            return sample.keep(f"selected: {where}; {rule} keeps ranks up to {kept}")
        return sample.drop(f"not selected: {where}; {rule} keeps ranks up to {kept}")

    def _value(self, sample: Sample, by: str, ctx: Context) -> float:
        """What ranks the sample, the lowest first; infinity where it is missing."""
        if by == RANDOM:
            return ctx.rng(sample.id).random()
        view = View.of(sample, by)
        nll = self.config.rank == "nll"
        value = None if view is None else view.nll if nll else view.agreement
        if value is None or not math.isfinite(value):
            return math.inf
        return float(value) if nll else -float(value)

    def _count(self, values: Sequence[float]) -> int:
        """How many of the sorted ``values`` are kept."""
        if self.config.preset == "official":
            known = [value for value in values if math.isfinite(value)]
            median = float(np.median(known)) if known else -math.inf
            return sum(value < median for value in known)
        return share_of(self.config.keep, len(values))


def _told(config: SelectConfig, kept: int, m: int, total: int) -> str:
    """How many flagged samples are kept, in words where it is none."""
    if not m:
        return "no sample is flagged, so none has to be selected"
    if kept:
        return f"{kept} of {m} flagged samples are kept"
    why = "the median" if config.preset else f"keep {config.keep:g}"
    left = (
        f"{total - m} not flagged {'stays' if total - m == 1 else 'stay'}"
        if total > m
        else "no other is left"
    )
    which = "the one flagged sample is not" if m == 1 else f"none of the {m} flagged samples is"
    return f"{which} kept ({why}); {left}"


def _no_rank(config: SelectConfig, m: int) -> str:
    lines = " and ".join(f"`- {item}`" for item in _instead(config))
    return (
        f"robustft.select: none of {m} flagged samples has an {config.rank} in {config.by!r}, and without one any half of them "
        f"would go. See in the notes of {config.by!r} why (calls that failed?), or write {lines} in its place, with your model "
        "for MODEL; the same command then goes on, and asks nothing twice"
    )


def _instead(config: SelectConfig) -> tuple[str, str]:
    """Several drawn answers to the flagged samples, and the share of them that agree."""
    verdict = f", check: {config.check}" if config.check not in (None, "check") else ""
    after = f", only: flagged{verdict}" if config.check else ""
    own = f", check: {config.check or 'null'}" if config.check != "check" else ""
    return (
        f"{{use: robustft.answer, llm: MODEL, into: draws{after}, samples: 5, temperature: 0.7, logprobs: false}}",
        f"{{use: robustft.select, by: draws, keep: {config.keep:g}, rank: agreement{own}}}",
    )


def _measure(by: str, value: float, rank: str) -> str:
    if by == RANDOM:
        return "a random draw"
    return f"{by}: no {rank}" if math.isinf(value) else f"{by} {rank} {abs(value):.4g}"
