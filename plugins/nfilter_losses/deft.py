"""Loss ``deft``: Dynamic Entropy Fine-Tuning (Wang et al., arXiv 2602.11424)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nfilter import Contract, StageConfig


class DeftConfig(StageConfig):
    """No settings."""


class Deft:
    """Token loss between -log p and 1 - p, chosen by how concentrated the prediction is.

    The loss of the paper is (1 - p^a) / a with a = sg(sum of p_v^2 over the vocabulary), the exponential of the negative
    Renyi-2 entropy. Its gradient is that of -sg(p^a) log p, so the weight is p^a: near 1 where the model is uncertain
    (a near 0, plain cross-entropy), near p where it is certain (a near 1, as in DFT). The reported loss is the weighted
    cross-entropy, which is another number than (1 - p^a) / a. The mean is over all tokens.
    """

    name: ClassVar[str] = "deft"
    Config: ClassVar[type[StageConfig]] = DeftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: DeftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: DeftConfig) -> Contract:
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``gate`` [m], float32 in [0, 1]: p^a."""
        logs = logits_chunk.float().log_softmax(-1)
        label = logs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        concentration = (2 * logs).exp().sum(-1)
        # exp(a log p), because p of an unlikely label is 0 in float32.
        return {"gate": (concentration * label).exp()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the gates, [n]."""
        return stats["gate"]
