"""``robustft.random``: as many samples as another run kept, drawn by chance; the control of every cleaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import model_validator

from nfilter import Context, Contract, ContractError, Sample, StageConfig, State
from nfilter_robustft.ranks import rank_of, ranked, share_of


class RandomConfig(StageConfig):
    """``keep``: how many samples stay: a number of them (100), or a share in [0, 1] with a point (0.5, 1.0)."""

    keep: int | float

    @model_validator(mode="after")
    def _a_number_or_a_share(self) -> RandomConfig:
        if self.keep < 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ValueError(
                f"keep: {self.keep} is neither a number of samples (100) nor a share from 0.0 to 1.0"
            )
        return self


class Random:
    """Keeps a random subset of all samples, of exactly ``keep``, or floor(keep * n) for a share; drops the others.

    The draw depends on the run's seed, the stage and the sample's id, so a smaller subset lies in a larger one.
    What a person pinned stays, and counts.
    """

    name: ClassVar[str] = "robustft.random"
    Config: ClassVar[type[StageConfig]] = RandomConfig

    def __init__(self, config: RandomConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RandomConfig) -> Contract:  # noqa: ARG003
        """Reads and writes no notes."""
        return Contract()

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Draw a number for every sample and rank them by it: 16 bytes a sample are kept."""
        drawn = sorted(
            (not sample.pinned, ctx.rng(sample.id).random(), sample.id) for sample in stream
        )
        n, keep = len(drawn), self.config.keep
        kept = keep if isinstance(keep, int) else share_of(keep, n)
        pinned = sum(not free for free, _, _ in drawn)
        if kept > n:
            ctx.log.warning(f"keep: {keep} of {n} samples keeps them all, and they are fewer")
        if pinned > kept:
            ctx.log.warning(
                f"{pinned} samples are pinned and stay, more than keep: {keep} asks for"
            )
        kept = max(min(kept, n), pinned)
        ctx.log.info(f"{kept} of {n} samples are kept, drawn at random")
        return State({"n": n, "kept": kept}, ranked([name for _, _, name in drawn]))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Keep or drop each sample of the chunk."""
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        values: Any = state.values
        rank = rank_of(sample.id, state.arrays)
        if rank is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was not there when the samples were drawn"
            )
        where = f"place {rank} of {values['n']} at random; keep {self.config.keep} keeps the first {values['kept']}"
        return (
            sample.keep(f"drawn: {where}")
            if rank <= values["kept"]
            else sample.drop(f"not drawn: {where}")
        )
