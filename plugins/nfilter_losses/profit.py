"""Loss ``profit``: probability-guided token selection (Liu et al., arXiv 2601.09195)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, StageConfig
from nfilter_losses.labels import label_log_probability


class ProfitConfig(StageConfig):
    """``least``: tokens whose label the model gives a smaller probability leave the loss (tau of the paper, 0.1)."""

    least: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Smallest probability of a label that stays in the loss, 0 to 1.",
    )


class Profit:
    """Token loss over likely labels alone: weight 1 if sg(p(label)) >= ``least``, else 0.

    The mean is over all tokens, masked ones too, as in the published code where the trainer gives the number of tokens
    of a step. Early in training, labels that are new to the model are masked, so what it cannot predict it never learns.
    """

    name: ClassVar[str] = "profit"
    Config: ClassVar[type[StageConfig]] = ProfitConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: ProfitConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ProfitConfig) -> Contract:
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``p`` [m], float32: the probability of each label."""
        return {"p": label_log_probability(logits_chunk, labels).exp()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return weights of 0 and 1, [n]."""
        return (stats["p"] >= self.config.least).float()
