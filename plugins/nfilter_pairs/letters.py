"""The two responses of a pair by their letters, and what the notes of all views have.

The letters are those of ``answer: preference``. They do not say which response is chosen, so a view that is asked about A and B
is not told the label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nfilter import JSON, Context, Message, RecipeError, Sample

A, B = "A", "B"


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of responses. ``label`` is the letter of the chosen one."""

    sample: Sample
    a: Message
    b: Message
    label: str

    @property
    def sign(self) -> int:
        """1 if A is chosen, -1 if B is."""
        return 1 if self.label == A else -1

    def with_response(self, letter: str) -> Sample:
        """Return the prompt with one of the responses, to be encoded; its id is that of the pair and the letter."""
        response = self.a if letter == A else self.b
        return replace(
            self.sample,
            id=f"{self.sample.id}\x1f{letter}",
            messages=(*self.sample.context, response),
            rejected=None,
        )


def pair_of(sample: Sample, ctx: Context, stage: str) -> Pair:
    """Return the pair of a sample.

    Raises:
        RecipeError: if the sample has one response, or the recipe compares answers of another kind.
    """
    if sample.rejected is None:
        raise RecipeError(
            f"{stage}: sample {sample.id!r} has one response, and this stage compares two; give the source rows with the columns "
            "prompt, chosen and rejected (shape: preference)"
        )
    label = ctx.answers.parse(sample.response, sample)
    if ctx.answers.kind != "preference" or label is None:
        raise RecipeError(
            f"{stage}: the recipe has answer: {ctx.answers.kind}, and pairs are compared by which response is preferred; type "
            "answer: preference"
        )
    chosen = sample.messages[-1]
    a, b = (chosen, sample.rejected) if label == A else (sample.rejected, chosen)
    return Pair(sample, a, b, label)


def shares(pair: Pair, probability_of_a: float) -> dict[str, JSON]:
    """Return the keys of a calibrated view: the probability of each response, and that of the chosen one."""
    p = round(min(1.0, max(0.0, probability_of_a)), 6)
    votes: dict[str, JSON] = {A: p, B: round(1.0 - p, 6)}
    return {"votes": votes, "support": votes[pair.label], "calibrated": True}
