"""``pairs.decide``: swaps, drops or weighs pairs by a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from nfilter import Context, Contract, Sample, StageConfig, State, Verdict
from nfilter_pairs.letters import pair_of


class DecideConfig(StageConfig):
    """With s the noise score of the verdict, the probability of a flip, |2 s - 1| is the certainty of the likelier order."""

    check: str = Field(default="check", description="The note with the verdict.")
    how: Literal["swap", "drop", "weigh"] = Field(
        default="swap",
        description="swap exchanges the responses of flagged pairs, drop drops these pairs, weigh takes the likelier order of every pair with its certainty as a weight.",
    )
    least: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Certainty of the likelier order, 0 to below 1, under which a pair is dropped.",
    )


class Decide:
    """Stage that acts on the verdict about each pair.

    ``weigh`` multiplies the weight by |2 s - 1|, the expected value of the order that is kept if a right pair counts 1 and a flipped
    one -1. Pairs without a verdict are kept, pinned ones are not changed.
    """

    name: ClassVar[str] = "pairs.decide"
    Config: ClassVar[type[StageConfig]] = DecideConfig

    def __init__(self, config: DecideConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: DecideConfig) -> Contract:
        """Read the verdict."""
        return Contract(reads=frozenset({config.check}))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Decide about each pair."""
        return [self._decide(sample, ctx) for sample in chunk]

    def _decide(self, sample: Sample, ctx: Context) -> Sample:
        config = self.config
        pair_of(sample, ctx, self.name)  # an error for rows with one response
        verdict = Verdict.of(sample, config.check)
        if sample.pinned or verdict is None:
            return sample.keep(
                "pinned by a user: not changed"
                if sample.pinned
                else f"pair kept: it has no verdict {config.check!r}"
            )
        certainty = abs(2.0 * float(verdict.noise_score) - 1.0)
        evidence = _evidence(verdict)
        if certainty < config.least:
            return sample.drop(
                f"too uncertain: {evidence}; certainty {certainty:.2f}, least {config.least:g}"
            )
        if config.how == "weigh":
            return _weighed(sample, float(verdict.noise_score), evidence)
        if not verdict.flagged:
            return sample.keep(f"kept: {evidence}")
        drop = config.how == "drop"
        return sample.drop(f"flipped: {evidence}") if drop else sample.swap(f"swapped: {evidence}")


def _weighed(sample: Sample, score: float, evidence: str) -> Sample:
    """Return the pair in its likelier order, with the certainty of that order as a factor of its weight."""
    certainty = abs(2.0 * score - 1.0)
    ordered, word = sample, "kept"
    if score > 0.5:
        ordered, word = sample.swap(f"swapped: {evidence}"), "swapped"
    return ordered.weigh(sample.weight * certainty, f"{word}: {evidence}; weight {certainty:.2f}")


def _evidence(verdict: Verdict) -> str:
    agree = verdict.agree or {}
    chosen = [name for name, agrees in agree.items() if agrees]
    rejected = [name for name, agrees in agree.items() if agrees is False]
    parts = [
        f"{' and '.join(names)} prefer{'' if len(names) > 1 else 's'} the {which} response"
        for names, which in ((rejected, "rejected"), (chosen, "chosen"))
        if names
    ]
    said = ", ".join(parts) or "no view has an answer"
    return f"{said}; probability of a flip {verdict.noise_score:.2f}"
