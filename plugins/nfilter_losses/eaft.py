"""Loss ``eaft``: Entropy-Adaptive Fine-Tuning (Diao et al., arXiv 2601.02151)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, StageConfig


class EaftConfig(StageConfig):
    """``top``: number of most likely tokens that the entropy is computed over (K of the paper, 20).

    ``divisor: 3.0`` gives the weights of LlamaFactory 0.9.5, ``divisor: 1.0`` those of axolotl 0.19; ``power`` is their
    ``eaft_alpha``.
    """

    top: int = Field(
        default=20,
        ge=2,
        description="Most likely tokens over which the entropy is computed, at least 2.",
    )
    divisor: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="What the entropy is divided by, above 0; auto: ln(top), so that weights are at most 1.",
    )
    power: float = Field(
        default=1.0, ge=0, le=8, description="Exponent of the divided entropy, 0 to 8."
    )


class Eaft:
    """Token loss weighted by the normalised entropy of the prediction: confident predictions count little.

    w = H / ln K in [0, 1]; H is the entropy of the K most likely tokens, with probabilities rescaled to sum to 1 (as
    in the authors' code). K is at most the vocabulary size. The mean is over all tokens.

    Other trainers use the same H with another scale, and the scale of all weights acts like one of the learning rate:
    LlamaFactory 0.9.5 divides by 3.0 (ln 20 is 2.996, so its weights are 0.14% smaller) and fixes K at 20; axolotl 0.19
    does not divide, so its weights are up to ln K, 2.996 times as large at K = 20, and the same ``lr`` takes larger steps.
    """

    name: ClassVar[str] = "eaft"
    Config: ClassVar[type[StageConfig]] = EaftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: EaftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: EaftConfig) -> Contract:
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``entropy`` [m], float32, at least 0: the entropy of the top tokens divided by ``divisor``."""
        top = min(self.config.top, logits_chunk.shape[-1])
        logs = logits_chunk.topk(top, dim=-1).values.float().log_softmax(-1)
        # xlogy(p, p) is 0 at p = 0: a token with a logit of -inf has log p = -inf.
        p = logs.exp()
        entropy = -p.xlogy(p).sum(-1)
        most = math.log(top)
        entropy = entropy.clamp(0.0, most)
        return {
            "entropy": entropy / (most if self.config.divisor == "auto" else self.config.divisor)
        }

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the entropies raised to ``power``, [n]."""
        return stats["entropy"] ** self.config.power
