"""Loss ``dft``: Dynamic Fine-Tuning (Wu et al., arXiv 2508.05629)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nfilter import Contract, StageConfig
from nfilter_losses.labels import label_log_probability


class DftConfig(StageConfig):
    """No settings."""


class Dft:
    """Token loss weighted by the model's probability of the label: unlikely labels count little.

    w = sg(p(label)): the loss of a token is -sg(p) log p, and its gradient equals that of -p. As in the paper, the
    mean is over all tokens, so a step is small when all probabilities are small.
    """

    name: ClassVar[str] = "dft"
    Config: ClassVar[type[StageConfig]] = DftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: DftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: DftConfig) -> Contract:
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``p`` [m], float32: the probability of each label."""
        return {"p": label_log_probability(logits_chunk, labels).exp()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the probabilities, [n], in [0, 1]."""
        return stats["p"]
