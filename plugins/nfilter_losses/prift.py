"""Loss ``prift``: prior-support guided fine-tuning (Wang et al., arXiv 2606.09396)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, RecipeError, StageConfig


class PriftConfig(StageConfig):
    """``by``: the score with the weight of each token, as ``prift.score`` writes it."""

    by: str = Field(default="prift", description="The score with the weight of each token.")


class Prift:
    """Token loss weighted by a score that the frozen model gave before training: weights do not follow the training.

    With ``prift.score`` and its rule ``dft`` this is PriFT-prob, w = p(label) under the pretrained model. The mean is
    over all tokens, as in the online losses; multiplying the token weights themselves (``pweight.weigh``) makes it a
    mean over the weighted ones.
    """

    name: ClassVar[str] = "prift"
    Config: ClassVar[type[StageConfig]] = PriftConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: PriftConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: PriftConfig) -> Contract:
        return Contract(reads=frozenset({config.by}))

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``none`` [m], float32 zeros: the current model's logits do not matter."""
        return {"none": logits_chunk.new_zeros(len(labels)).float()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the scores, [n]; raise RecipeError if one is missing for any token."""
        name, n = self.config.by, len(stats["none"])
        missing = int(cached[name].isnan().sum()) if name in cached else n
        if missing:
            available = ", ".join(sorted(cached)) or "none"
            raise RecipeError(
                f"prift: no score {name!r} for {missing} of {n} tokens (available: {available}); put "
                "{use: prift.score} under tokens:, or set train.loss.by to the name of a score with weights"
            )
        return cached[name]
