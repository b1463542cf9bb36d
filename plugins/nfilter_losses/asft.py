"""Loss ``asft``: Anchored Supervised Fine-Tuning (Zhu et al., arXiv 2509.23753)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, StageConfig
from nfilter_losses.labels import label_log_probability


class AsftConfig(StageConfig):
    """``kl``: lambda of the paper; version 3 uses 0.05, the published code 0.1."""

    kl: float = Field(
        default=0.1, ge=0, le=100, description="Factor of the KL divergence, 0 to 100."
    )
    direction: Literal["forward", "reverse"] = Field(
        default="forward",
        description="forward: KL(base || model), as in the paper; reverse: KL(model || base).",
    )


class Asft:
    """DFT with a penalty for the distance from the model before training.

    L = -sg(p(label)) log p(label) + lambda KL(q || p) per token (Eq. 6), with p the current model and q the base without
    the adapter, over the whole vocabulary. ``direction: reverse`` is KL(p || q). The mean is over all tokens.
    """

    name: ClassVar[str] = "asft"
    Config: ClassVar[type[StageConfig]] = AsftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: AsftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: AsftConfig) -> Contract:
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``p`` [m], float32: the probability of each label."""
        return {"p": label_log_probability(logits_chunk, labels).exp()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the probabilities, [n], in [0, 1]."""
        return stats["p"]

    def penalty(self, logits_chunk: Any, labels: Any, reference_logits: Any) -> Any:
        """Return lambda times the divergence, [m], float32."""
        logs = (logits_chunk.float().log_softmax(-1), reference_logits.float().log_softmax(-1))
        other, first = logs if self.config.direction == "forward" else logs[::-1]
        p = first.exp()
        # Without the fill, a token with a logit of -inf in both models has 0 * (inf - inf).
        return self.config.kl * (p * (first - other).masked_fill(p == 0, 0.0)).sum(-1)
