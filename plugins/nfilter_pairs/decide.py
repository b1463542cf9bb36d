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
    swap_from: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Probability of a flip, at the lower end of its 95% interval, from which a pair is swapped, 0 to 1; 0 swaps every flagged pair.",
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

    A pair is swapped, by ``swap`` or ``weigh``, only if the data determine the probability of a flip well enough: the lower end
    of the verdict's interval (or, in a verdict without one, the noise score) has to reach ``swap_from``. Others keep their order
    and weight.
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
        score = float(verdict.noise_score)
        certainty = abs(2.0 * score - 1.0)
        evidence = _evidence(verdict)
        if certainty < config.least:
            return sample.drop(
                f"too uncertain: {evidence}; certainty {certainty:.2f}, least {config.least:g}"
            )
        weigh = config.how == "weigh"
        if not (score > 0.5 if weigh else verdict.flagged):
            return (
                _weighed(sample, certainty, f"kept: {evidence}")
                if weigh
                else sample.keep(f"kept: {evidence}")
            )
        if config.how == "drop":
            return sample.drop(f"flipped: {evidence}")
        low, high = verdict.ends
        if low < config.swap_from:
            return sample.keep(
                f"kept, though {evidence}: the data determine this probability only to be between {low:.2f} and {high:.2f}, and "
                f"pairs are swapped from {config.swap_from:g}"
            )
        swapped = sample.swap(f"swapped: {evidence}")
        return _weighed(swapped, certainty, f"swapped: {evidence}") if weigh else swapped


def _weighed(sample: Sample, certainty: float, reason: str) -> Sample:
    return sample.weigh(sample.weight * certainty, f"{reason}; weight {certainty:.2f}")


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
