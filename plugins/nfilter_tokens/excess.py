"""``tokens.excess_loss``: base loss minus reference loss of each token (Token Cleaning, Eqs. 2-3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from nfilter import (
    Context,
    Contract,
    LendsModule,
    Model,
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
    """``base``: the model before training. Set exactly one reference:

    ``reference`` names another model of the recipe with the base's tokenizer. ``warmup`` trains an adapter on the base
    with the recipe's trainer, on this share of the samples, drawn with the run's seed. ``into`` is the score's name;
    the two losses are stored as ``loss.base`` and ``loss.reference``.
    """

    base: Annotated[str, Needs(Scores)] = Field(
        default="student", description="The model before training."
    )
    reference: str | None = Field(
        default=None,
        description="The reference: another model with the same tokenizer; set this or warmup.",
    )
    warmup: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Train the reference on this share of the samples, between 0 and 1; set this or reference.",
    )
    into: str = Field(default="excess", description="The score with the excess loss.")

    @model_validator(mode="after")
    def _one_reference(self) -> ExcessLossConfig:
        if (self.reference is None) == (self.warmup is None):
            raise ValueError(
                "name one reference: either reference: MODEL (of models:) or warmup: 0.2, the share of samples to train it on"
            )
        return self


class ExcessLoss:
    """Stage that writes base loss minus reference loss, float32, for every response token.

    A high score means that the reference predicts the token much better. All samples are scored, including those
    that a warm-up trained on.
    """

    name: ClassVar[str] = "tokens.excess_loss"
    Config: ClassVar[type[StageConfig]] = ExcessLossConfig

    def __init__(self, config: ExcessLossConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ExcessLossConfig) -> Contract:
        needs = (
            (ModelNeed(config.reference, Scores, field="reference"),) if config.reference else ()
        )
        return Contract(
            writes=frozenset({BASE, REFERENCE, config.into}),
            needs=needs,
            trains=config.warmup is not None,
        )

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Train the reference (``warmup``), or compare its tokenizer with the base's (``reference``)."""
        samples = list(stream)
        if self.config.warmup is None:
            self._check_tokenizers(samples, ctx)
            return State({})
        # A sample that an earlier stage masked completely has no token to train on.
        full = [sample for sample in samples if sample.weights.any()]
        order = sorted(range(len(full)), key=lambda i: ctx.rng(full[i].id).random())
        part = [full[i] for i in sorted(order[: max(1, int(len(full) * self.config.warmup))])]
        ctx.log.info(f"warm-up: training the reference on {len(part)} of {len(full)} samples")
        ref = ctx.train(part)
        ctx.publish_model(ref)
        return State({"reference": asdict(ref), "report": {"warmup_samples": len(part)}})

    def _check_tokenizers(self, samples: Sequence[TokenSample], ctx: Context) -> None:
        """Raise RecipeError if the reference's tokenizer differs: losses are compared token by token."""
        base, reference = self.config.base, str(self.config.reference)
        texts = [sample.text for sample in samples[:_PROBES]]
        tokenizations = [_tokenization(ctx.model(name), texts) for name in (base, reference)]
        if None in tokenizations:
            ctx.log.warning(
                f"{self.name}: cannot compare the tokenizers of {reference!r} and {base!r}, because one is not a local model; "
                "if they differ, every score is wrong"
            )
        elif tokenizations[0] != tokenizations[1]:
            raise RecipeError(
                f"{self.name}: reference {reference!r} and base {base!r} have different tokenizers, so their losses cannot "
                "be compared; name a reference with the same tokenizer, or let the stage train one: warmup: 0.2"
            )

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Score the chunk with the base and the reference; mask nothing."""
        base = ctx.model(self.config.base)
        base_losses = base.score(chunk)
        if self.config.reference is not None:
            reference_losses = ctx.model(self.config.reference).score(chunk)
        else:
            ref: Any = state.values["reference"]
            reference_losses = base.score(chunk, ModelRef(**ref))
        return [
            sample.score(BASE, b).score(REFERENCE, r).score(self.config.into, b - r)
            for sample, b, r in zip(chunk, base_losses, reference_losses, strict=True)
        ]


def _tokenization(model: Model, texts: Sequence[str]) -> list[Any] | None:
    """Return a local model's vocabulary and its token ids for ``texts``; None if it exposes no tokenizer."""
    if not model.has(LendsModule):
        return None
    with model.lend() as lent:
        tokenizer = getattr(lent, "tokenizer", None)
        if tokenizer is None:
            return None
        return [tokenizer.get_vocab(), *(tokenizer(text)["input_ids"] for text in texts)]
