"""Loss ``eaft``: Entropy-Adaptive Fine-Tuning (Diao et al., arXiv 2601.02151)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, StageConfig


class EaftConfig(StageConfig):
    """``top``: number of most likely tokens that the entropy is computed over (K of the paper, 20)."""

    top: int = Field(
        default=20,
        ge=2,
        description="Most likely tokens over which the entropy is computed, at least 2.",
    )


class Eaft:
    """Token loss weighted by the normalised entropy of the prediction: confident predictions count little.

    w = H / ln K in [0, 1]; H is the entropy of the K most likely tokens, with probabilities rescaled to sum to 1 (as
    in the authors' code). K is at most the vocabulary size. The mean is over all tokens.
    """

    name: ClassVar[str] = "eaft"
    Config: ClassVar[type[StageConfig]] = EaftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: EaftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: EaftConfig) -> Contract:  # noqa: ARG003
        """Read no score."""
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``entropy`` [m], float32 in [0, 1]: the entropy of the top tokens divided by its maximum."""
        top = min(self.config.top, logits_chunk.shape[-1])
        logs = logits_chunk.topk(top, dim=-1).values.float().log_softmax(-1)
        # xlogy(p, p) is 0 at p = 0: a token with a logit of -inf has log p = -inf.
        p = logs.exp()
        entropy = -p.xlogy(p).sum(-1)
        return {"entropy": (entropy / math.log(top)).clamp(0.0, 1.0)}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the entropies, [n]."""
        return stats["entropy"]
