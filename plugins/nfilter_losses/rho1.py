"""Loss ``rho1``: selective language modelling (Lin et al., arXiv 2404.07965)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, RecipeError, StageConfig
from nfilter_losses.labels import label_log_probability


class Rho1Config(StageConfig):
    """``ratio``: share of a step's tokens that is trained on. ``reference``: score with the reference model's loss."""

    ratio: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Share of the tokens of a step that is trained on, above 0, at most 1.",
    )
    reference: str = Field(
        default="loss.reference", description="The score with the loss of the reference model."
    )


class Rho1:
    """Token loss over the tokens with the highest excess loss of each step: weight 1, the others 0.

    Excess loss is the current model's loss minus the reference's. ``int(n * ratio)`` of a step's n tokens are kept,
    at least one; ties go to the earlier token. The mean is over the kept tokens.
    """

    name: ClassVar[str] = "rho1"
    Config: ClassVar[type[StageConfig]] = Rho1Config
    mean_over: ClassVar[Literal["given", "weighed"]] = "weighed"

    def __init__(self, config: Rho1Config) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: Rho1Config) -> Contract:
        return Contract(reads=frozenset({config.reference}))

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``loss`` [m], float32: -log p(label)."""
        return {"loss": -label_log_probability(logits_chunk, labels)}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return weights of 0 and 1, [n]; raise RecipeError if the reference's loss is missing for any token."""
        name, losses = self.config.reference, stats["loss"]
        missing = int(cached[name].isnan().sum()) if name in cached else len(losses)
        if missing:
            available = ", ".join(sorted(cached)) or "none"
            raise RecipeError(
                f"rho1: no score {name!r} for {missing} of {len(losses)} tokens (available: {available}); put a stage that "
                "writes it under tokens:, such as tokens.excess_loss, or set train.loss.reference to its name"
            )
        order = (losses - cached[name]).sort(descending=True, stable=True).indices
        weights = losses.new_zeros(len(losses))
        weights[order[: max(1, int(len(losses) * self.config.ratio))]] = 1.0
        return weights
