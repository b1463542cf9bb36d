"""``eaft``: Entropy-Adaptive Fine-Tuning (Diao et al., arXiv 2601.02151)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, StageConfig


class EaftConfig(StageConfig):
    """``top``: how many of the most likely tokens the entropy is of (K of the paper, 20)."""

    top: int = Field(default=20, ge=2, description="most likely tokens that the entropy is of")


class Eaft:
    """Weighs every token by how unsure the model is there: a confident model is not made to learn the opposite.

    w = H / ln K in [0, 1], with H the entropy of the K most likely tokens, their probabilities scaled to sum to 1 (as
    in the authors' code); K is the vocabulary's size where that is smaller. The mean is over all tokens.
    """

    name: ClassVar[str] = "eaft"
    Config: ClassVar[type[StageConfig]] = EaftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: EaftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: EaftConfig) -> Contract:  # noqa: ARG003
        """Reads no score."""
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """``entropy`` [m] of the most likely tokens as a share of the highest possible, float32 in [0, 1]."""
        top = min(self.config.top, logits_chunk.shape[-1])
        logs = logits_chunk.topk(top, dim=-1).values.float().log_softmax(-1)
        # xlogy(p, p) is 0 where a probability is: a token that is out of the question has log p = -inf.
        chances = logs.exp()
        entropy = -chances.xlogy(chances).sum(-1)
        return {"entropy": (entropy / math.log(top)).clamp(0.0, 1.0)}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """The entropies themselves, [n]."""
        return stats["entropy"]
