"""Soft weights: a sample counts as much as its label is likely to be right, in place of being dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from nfilter import Context, Contract, Proportion, Sample, StageConfig, State, Verdict, hookimpl


class SoftConfig(StageConfig):
    """``check``: the verdict note with the noise score s. The weight is multiplied by max(``least``, (1 - s) ** ``power``)."""

    check: str = Field(default="check", description="The verdict note with the noise score.")
    power: float = Field(
        default=1.0,
        gt=0,
        le=8,
        description="Exponent of the probability that the label is right, above 0, at most 8.",
    )
    least: Proportion = Field(default=0.0, description="The smallest factor, 0 to 1.")
    only: Literal["all", "flagged"] = Field(
        default="all",
        description="all: weigh every sample with a verdict; flagged: leave the others at their weight.",
    )


class Soft:
    """Stage that multiplies a sample's weight by max(least, (1 - s)^power), where s is the noise score of its verdict.

    s is the probability that the label is wrong, so with ``power: 1`` the loss of a sample is its expected loss over
    whether the label is right, with 0 for a wrong label. No sample is dropped; with a factor of 0 none of its tokens is
    in the loss. Use it in place of relabelling: the noise score is that of the label which the verdict saw. Pinned samples
    and samples without a verdict keep their weight.
    """

    name: ClassVar[str] = "weights.soft"
    Config: ClassVar[type[StageConfig]] = SoftConfig

    def __init__(self, config: SoftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SoftConfig) -> Contract:
        return Contract(reads=frozenset({config.check}))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._weigh(sample) for sample in chunk]

    def _weigh(self, sample: Sample) -> Sample:
        config, verdict = self.config, Verdict.of(sample, self.config.check)
        if sample.pinned:
            return sample.keep("pinned by a user: not changed")
        if verdict is None:
            return sample.keep(f"weight kept: it has no verdict {config.check!r}")
        if config.only == "flagged" and not verdict.flagged:
            return sample.keep("weight kept: not flagged")
        factor = max(config.least, (1.0 - verdict.noise_score) ** config.power)
        reason = f"noise score {verdict.noise_score:.3f}: weight times {factor:.3f}"
        return sample.weigh(sample.weight * factor, reason)


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    return [Soft]
