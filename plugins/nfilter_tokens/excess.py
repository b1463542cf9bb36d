"""``tokens.excess_loss``: what a reference model has learnt to predict and the base has not (Token Cleaning, Eqs. 2-3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from nfilter import (
    Context,
    Contract,
    FloatArray,
    ModelNeed,
    ModelRef,
    Needs,
    RecipeError,
    Scores,
    StageConfig,
    State,
    TokenSample,
)

BASE = "loss.base"
REFERENCE = "loss.reference"
_PROBES = 16


class ExcessLossConfig(StageConfig):
    """``base``: the model before training. One reference, of three kinds:

    ``reference`` names another model of the recipe, which must have the base's tokenizer; ``warmup`` trains one, an
    adapter on the base, on this share of the samples, drawn with the run's seed, by the recipe's own trainer.
    ``into`` is the score's name; the two losses are kept beside it, as ``loss.base`` and ``loss.reference``.
    """

    base: Annotated[str, Needs(Scores)] = "student"
    reference: str | None = None
    warmup: float | None = Field(default=None, gt=0, lt=1)
    into: str = "excess"

    @model_validator(mode="after")
    def _one_reference(self) -> ExcessLossConfig:
        if (self.reference is None) == (self.warmup is None):
            raise ValueError(
                "name one reference: either reference: MODEL (of models:) or warmup: 0.2, the share that it learns from"
            )
        return self


class ExcessLoss:
    """Writes loss under the base less loss under the reference, float32, for every response token.

    High: the reference predicts the token much better, so there is something to learn from it. Every sample is
    scored, those that a warm-up learnt from too.
    """

    name: ClassVar[str] = "tokens.excess_loss"
    Config: ClassVar[type[StageConfig]] = ExcessLossConfig

    def __init__(self, config: ExcessLossConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ExcessLossConfig) -> Contract:
        """Writes three scores; a warm-up trains."""
        needs = (
            (ModelNeed(config.reference, Scores, field="reference"),) if config.reference else ()
        )
        return Contract(
            writes=frozenset({BASE, REFERENCE, config.into}),
            needs=needs,
            trains=config.warmup is not None,
        )

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Train the reference where it is a warm-up; compare tokenizers where it is another model."""
        samples = list(stream)
        if self.config.warmup is None:
            self._same_tokens(samples, ctx)
            return State({})
        # What an earlier stage emptied teaches nothing.
        full = [sample for sample in samples if sample.weights.any()]
        order = sorted(range(len(full)), key=lambda i: ctx.rng(full[i].id).random())
        part = [full[i] for i in sorted(order[: max(1, int(len(full) * self.config.warmup))])]
        ctx.log.info(f"warm-up: the reference learns from {len(part)} of {len(full)} samples")
        ref = ctx.train(part)
        ctx.publish_model(ref)
        return State({"reference": asdict(ref), "report": {"warmup_samples": len(part)}})

    def _same_tokens(self, samples: Sequence[TokenSample], ctx: Context) -> None:
        """Refuse a reference that cuts text into other tokens: their losses cannot be compared one by one."""
        base, reference = self.config.base, str(self.config.reference)
        texts = [sample.text for sample in samples[:_PROBES]]
        found = [_cut(ctx.model(name), texts) for name in (base, reference)]
        if None in found:
            ctx.log.warning(
                f"{self.name}: whether {reference!r} has the tokenizer of {base!r} cannot be seen, as one of them is not a "
                "local model; with another one every score is wrong"
            )
        elif found[0] != found[1]:
            raise RecipeError(
                f"{self.name}: reference {reference!r} has another tokenizer than base {base!r}, and losses of other "
                "tokens cannot be compared; name a reference with the same one, or let the stage train one: warmup: 0.2"
            )

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Score the chunk twice; nothing is masked here."""
        del bit
        base = ctx.model(self.config.base)
        before: list[FloatArray] = base.score(chunk)
        if self.config.reference is not None:
            after = ctx.model(self.config.reference).score(chunk)
        else:
            ref: Any = state.values["reference"]
            after = base.score(chunk, ModelRef(**ref))
        return [
            sample.score(BASE, b).score(REFERENCE, r).score(self.config.into, b - r)
            for sample, b, r in zip(chunk, before, after, strict=True)
        ]


def _cut(model: Any, texts: Sequence[str]) -> list[Any] | None:
    """A local model's vocabulary and how it cuts ``texts``; None where its tokenizer is out of reach."""
    try:
        lending = model.lend()
    except AttributeError:
        return None
    with lending as lent:
        tokenizer = getattr(lent, "tokenizer", None)
        if tokenizer is None:
            return None
        return [tokenizer.get_vocab(), *(tokenizer(text)["input_ids"] for text in texts)]
