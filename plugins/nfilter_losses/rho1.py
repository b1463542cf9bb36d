"""``rho1``: selective language modelling (Lin et al., arXiv 2404.07965)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, RecipeError, StageConfig


class Rho1Config(StageConfig):
    """``ratio``: the share of a step's tokens that is learnt from. ``reference``: the score with the other loss."""

    ratio: float = Field(default=0.6, gt=0, le=1, description="share of a step's tokens that stay")
    reference: str = Field(default="loss.reference", description="score: the reference's loss")


class Rho1:
    """Learns, in each step, from the tokens that a reference predicts best beside the model as it is by then.

    Excess loss: the model's loss less the reference's. The highest ``int(n * ratio)`` of a step's n tokens, one at
    least, have weight 1, the others 0; ties go to the token that comes first. The mean is over the tokens kept.
    """

    name: ClassVar[str] = "rho1"
    Config: ClassVar[type[StageConfig]] = Rho1Config
    mean_over: ClassVar[Literal["given", "weighed"]] = "weighed"

    def __init__(self, config: Rho1Config) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: Rho1Config) -> Contract:
        """Reads the reference's loss."""
        return Contract(reads=frozenset({config.reference}))

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """``loss`` [m]: -log p(label), float32."""
        logs = logits_chunk.float().log_softmax(-1)
        return {"loss": -logs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """0 and 1, [n]. Raises RecipeError where the reference's loss is missing, of all tokens or of some."""
        name, losses = self.config.reference, stats["loss"]
        lost = int(cached[name].isnan().sum()) if name in cached else len(losses)
        if lost:
            there = ", ".join(sorted(cached)) or "none"
            raise RecipeError(
                f"rho1: no score {name!r} for {lost} of {len(losses)} tokens (scores there: {there}); put a stage that "
                "writes it under tokens:, such as tokens.excess_loss, or set train.loss.reference to its name"
            )
        order = (losses - cached[name]).sort(descending=True, stable=True).indices
        weights = losses.new_zeros(len(losses))
        weights[order[: max(1, int(len(losses) * self.config.ratio))]] = 1.0
        return weights
