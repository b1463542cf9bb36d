"""``robustft.select``: keeps the flagged samples with the most confident answers (RobustFT, Eqs. 7 and 8)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nfilter import (
    Context,
    Contract,
    ContractError,
    ModelError,
    Proportion,
    Ranks,
    Sample,
    StageConfig,
    State,
    View,
    hash_of,
)
from nfilter_robustft.ranks import floor_share, rank_arrays, rank_of
from nfilter_robustft.sorted_samples import SortedSamples
from nfilter_robustft.views import is_flagged

RANDOM = "random"
FALLBACK = "review"


class SelectConfig(StageConfig):
    """``by``: the view whose nll ranks samples, or ``random`` as a control. ``keep``: share of flagged samples to keep.

    ``rank: agreement`` is for models without log-probabilities: it ranks by self-consistency, the share of drawn
    answers that agree (``robustft.answer`` with ``samples``), instead of the nll.

    ``check`` is the verdict note; with null, every sample is ranked. ``preset: official`` keeps samples strictly below
    the median nll, like the published code, and takes no ``keep``. Unlike the published code, samples dropped by the
    review do not count in the median, and samples without an nll are never kept.
    """

    by: str = Field(
        default="context",
        description="The view whose nll ranks the flagged samples; random is a control.",
    )
    keep: Proportion = Field(
        default=0.5, description="Share of the flagged samples that is kept, 0 to 1."
    )
    check: str | None = Field(
        default="check", description="The verdict note that is read; null ranks every sample."
    )
    preset: Literal["official"] | None = Field(
        default=None,
        description="official: keep samples below the median nll, as the published code does.",
    )
    rank: Literal["nll", "agreement"] = Field(
        default="nll",
        description="nll: the lowest mean negative log-likelihood first; agreement: the largest share of agreeing drawn answers first.",
    )

    @model_validator(mode="after")
    def _preset_excludes_other_settings(self) -> SelectConfig:
        other = self.by == RANDOM or self.rank != "nll" or "keep" in self.model_fields_set
        if self.preset == "official" and other:
            raise ValueError(
                "preset: official keeps samples below the median nll of a view; leave out keep, rank and by: random"
            )
        return self


class Select:
    """Stage that keeps the share of flagged samples with the lowest nll and drops the others.

    Of M flagged samples, floor(keep * M) are kept; ties are ordered by id. A missing nll ranks last; if all are
    missing, the nll of ``review`` is used. Placed before ``robustft.review``, it saves the reviews of dropped samples.
    """

    name: ClassVar[str] = "robustft.select"
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> Contract:
        reads = {config.check} if config.check else set()
        if config.by != RANDOM:
            reads.add(config.by)
        # A ranking is needed unless all or none are kept.
        needed = config.by != RANDOM and (config.preset is not None or 0 < config.keep < 1)
        ranks = (Ranks(config.by, config.rank, _alternative_stages(config)),) if needed else ()
        return Contract(reads=frozenset(reads), ranks=ranks)

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Rank the flagged samples.

        Memory: 48 bytes per flagged sample, and ``sorted_samples.IN_MEMORY`` samples, twice if none has a value; the others are in
        a temporary file. The state takes 16 bytes per flagged sample.
        """
        by, total, ranking, keys = self._rank(stream, ctx)
        m = len(ranking)
        kept = self._count(ranking)
        missing = int(np.isinf(ranking).sum())
        if missing and (self.config.preset or 0 < self.config.keep < 1):
            ctx.log.warning(
                f"{missing} of {m} flagged samples have no {self.config.rank} in {by!r}; they rank last"
            )
        if self.config.rank == "agreement" and m > 1 and ranking[-1] == -1:
            ctx.log.warning(
                f"all draws of each of {m} flagged samples agree, so the ranking is by id only: raise the temperature, "
                "or check that the server samples (some decode greedily unless the model's settings have do_sample)"
            )
        ctx.log.info(_summary(self.config, kept, m, total))
        return State(
            {"m": m, "kept": kept, "missing": missing, "by": by},
            rank_arrays(keys),
        )

    def _rank(
        self, stream: Iterable[Sample], ctx: Context
    ) -> tuple[str, int, npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
        """Return the view that ranks, the number of samples, and of the flagged ones sorted values and id hashes [m]."""
        by, total, m, missing, some_fallback = self.config.by, 0, 0, 0, False
        with SortedSamples() as ranked, SortedSamples() as spare:
            for sample in stream:
                total += 1
                if not is_flagged(sample, self.config.check):
                    continue
                value, fallback = (self._value(sample, name, ctx) for name in (by, FALLBACK))
                m += 1
                missing += math.isinf(value)
                some_fallback |= math.isfinite(fallback)
                ranked.add(value, sample.id)
                if missing == m:
                    spare.add(fallback, sample.id)
                else:
                    spare.clear()  # the fallback is for the case that no sample has a value
            chosen = ranked
            if m and missing == m:
                by = self._fallback(by, m, some_fallback=some_fallback, ctx=ctx)
                chosen = ranked if by == self.config.by else spare
            values, keys = array("d"), array("Q")
            for value, name in chosen:
                values.append(value)
                keys.append(hash_of(name))
        return by, total, np.frombuffer(values, np.float64), np.frombuffer(keys, np.uint64)

    def _fallback(self, by: str, m: int, *, some_fallback: bool, ctx: Context) -> str:
        """Return the view that ranks ``m`` samples of which none has a value in ``by``.

        Raises:
            ModelError: a ranking is needed, and there is no other view.
        """
        if some_fallback:
            # Without clean samples there is no context view, but reviewed answers have an nll.
            ctx.log.warning(
                f"no flagged sample has an {self.config.rank} in {by!r}; ranking by {FALLBACK!r}"
            )
            return FALLBACK
        if 0 < self.config.keep < 1:
            raise ModelError(_no_rank_message(self.config, m))
        return by

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state, ctx) for sample in chunk]

    def _decide(self, sample: Sample, state: State, ctx: Context) -> Sample:
        if not is_flagged(sample, self.config.check):
            return sample.keep("not flagged: selection ranks flagged samples only")
        values: Any = state.values
        m, kept = values["m"], values["kept"]
        rank = rank_of(sample.id, state.arrays)
        if rank is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} is flagged but was not ranked; verdicts must not change in between"
            )
        if not self.config.preset and self.config.keep == 0:
            return sample.drop(f"not selected: keep 0 drops each of the {m} flagged samples")
        by = values["by"]
        value = self._value(sample, by, ctx)
        position = f"rank {rank} of {m} by {_measure(by, value, self.config.rank)}"
        rule = "strictly below the median" if self.config.preset else f"keep {self.config.keep:g}"
        if rank <= kept:
            return sample.keep(f"selected: {position}; {rule} keeps ranks up to {kept}")
        return sample.drop(f"not selected: {position}; {rule} keeps ranks up to {kept}")

    def _value(self, sample: Sample, by: str, ctx: Context) -> float:
        """Return the sort key of the sample; infinity if it is missing."""
        if by == RANDOM:
            return ctx.rng(sample.id).random()
        view = View.of(sample, by)
        nll = self.config.rank == "nll"
        value = None if view is None else view.nll if nll else view.agreement
        if value is None or not math.isfinite(value):
            return math.inf
        return float(value) if nll else -float(value)

    def _count(self, values: npt.NDArray[np.float64]) -> int:
        """Return the number of the sorted ``values`` [m] to keep."""
        if self.config.preset == "official":
            known = values[np.isfinite(values)]
            return int((known < np.median(known)).sum()) if len(known) else 0
        return floor_share(self.config.keep, len(values))


def _summary(config: SelectConfig, kept: int, m: int, total: int) -> str:
    if not m:
        return "no sample is flagged: nothing to select"
    if kept:
        return f"{kept} of {m} flagged samples are kept"
    rule = "the median" if config.preset else f"keep {config.keep:g}"
    return f"0 of {m} flagged samples are kept ({rule}); {total - m} samples are not flagged"


def _no_rank_message(config: SelectConfig, m: int) -> str:
    lines = " and ".join(f"`- {item}`" for item in _alternative_stages(config))
    return (
        f"robustft.select: none of {m} flagged samples has an {config.rank} in {config.by!r}, so the selection would be "
        f"arbitrary. See in the notes of {config.by!r} why (failed calls?), or write {lines} in its place, with your model "
        "for MODEL; the same command then resumes, without repeating calls"
    )


def _alternative_stages(config: SelectConfig) -> tuple[str, str]:
    """Return recipe lines that rank by the agreement of several drawn answers to the flagged samples."""
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
