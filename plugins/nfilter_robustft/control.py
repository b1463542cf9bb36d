"""``robustft.random``: a random subset of samples, the control for a cleaned dataset of the same size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from nfilter import Context, Contract, ContractError, Sample, StageConfig, State
from nfilter_robustft.ranks import floor_share, rank_arrays, rank_of


class RandomConfig(StageConfig):
    """``keep``: an integer is the number of samples to keep (100), a float the share in [0, 1] (0.5, 1.0)."""

    keep: int | float = Field(
        description="What is kept: an integer is a number of samples (100), a float a share from 0.0 to 1.0."
    )

    @model_validator(mode="after")
    def _number_or_share(self) -> RandomConfig:
        if self.keep < 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ValueError(
                f"keep: {self.keep} is neither a number of samples (100) nor a share from 0.0 to 1.0"
            )
        return self


class Random:
    """Stage that keeps a random subset of exactly ``keep`` samples, or floor(keep * n) for a share.

    The draw depends on the run's seed, the stage and the sample's id, so a larger subset contains every smaller one.
    Pinned samples are always kept, and count.
    """

    name: ClassVar[str] = "robustft.random"
    Config: ClassVar[type[StageConfig]] = RandomConfig

    def __init__(self, config: RandomConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RandomConfig) -> Contract:
        return Contract()

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Rank all samples at random; the state takes 16 bytes per sample."""
        order = sorted(
            (not sample.pinned, ctx.rng(sample.id).random(), sample.id) for sample in stream
        )
        n, keep = len(order), self.config.keep
        kept = keep if isinstance(keep, int) else floor_share(keep, n)
        pinned = sum(not unpinned for unpinned, _, _ in order)
        if kept > n:
            ctx.log.warning(f"keep: {keep} exceeds the {n} samples, all of which are kept")
        if pinned > kept:
            ctx.log.warning(f"{pinned} samples are pinned and kept, more than keep: {keep}")
        kept = max(min(kept, n), pinned)
        ctx.log.info(f"{kept} of {n} samples are kept, drawn at random")
        return State({"n": n, "kept": kept}, rank_arrays([name for _, _, name in order]))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        values: Any = state.values
        rank = rank_of(sample.id, state.arrays)
        if rank is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was missing when the samples were drawn"
            )
        reason = f"random rank {rank} of {values['n']}; keep {self.config.keep} keeps the first {values['kept']}"
        return (
            sample.keep(f"drawn: {reason}")
            if rank <= values["kept"]
            else sample.drop(f"not drawn: {reason}")
        )
