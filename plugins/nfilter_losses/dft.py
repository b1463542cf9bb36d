"""``dft``: Dynamic Fine-Tuning (Wu et al., arXiv 2508.05629)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nfilter import Contract, StageConfig


class DftConfig(StageConfig):
    """There is nothing to set."""


class Dft:
    """Weighs every token by the model's own probability of it: what the model finds unlikely counts little.

    w = sg(p(label)), so that the loss of a token is -sg(p) log p and its gradient that of -p. As in the paper the
    mean is over all tokens: where the model is unsure of everything, a step is small.
    """

    name: ClassVar[str] = "dft"
    Config: ClassVar[type[StageConfig]] = DftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: DftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: DftConfig) -> Contract:  # noqa: ARG003
        """Reads no score."""
        return Contract()

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """``p`` [m]: the probability of the label, float32."""
        logs = logits_chunk.float().log_softmax(-1)
        return {"p": logs.gather(-1, labels.unsqueeze(-1)).squeeze(-1).exp()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """The probabilities themselves, [n], in [0, 1]."""
        return stats["p"]
