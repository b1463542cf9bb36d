"""Loss ``forgetting``: signed token weights with a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Contract, Proportion, RecipeError, StageConfig


class ForgettingConfig(StageConfig):
    """The factor of the negative tokens grows from ``first`` to ``last`` over ``steps`` optimizer steps, then stays.

    The values are ours. Unlearning has no lower bound: a large ``last`` destroys the model.
    """

    by: str = Field(
        default="forgetting", description="The score with the sides: 1 positive, -1 negative."
    )
    first: Proportion = Field(default=0.0, description="Lambda at the first step, 0 to 1.")
    last: Proportion = Field(default=0.1, description="Lambda after steps, 0 to 1.")
    steps: int = Field(
        default=100, ge=1, description="Optimizer steps over which lambda changes, at least 1."
    )


class Forgetting:
    """Token loss L = mean over positive tokens - lambda(step) * mean over negative tokens.

    lambda grows linearly with the step. With n tokens in a step, P positive and N negative, the weights are n / P and
    -lambda n / N; tokens on neither side have 0, and so has a side without tokens. The trainer divides by the tokens as
    given (``mean_over: given``), never by the signed sum, so the negative weights survive. This is exactly L where all given
    weights are equal and ``loss_norm`` is ``tokens``; otherwise both means are weighted by the given weights.
    """

    name: ClassVar[str] = "forgetting"
    Config: ClassVar[type[StageConfig]] = ForgettingConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    def __init__(self, config: ForgettingConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ForgettingConfig) -> Contract:
        return Contract(reads=frozenset({config.by}))

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return ``none`` [m], float32 zeros: the weights do not depend on the logits."""
        return {"none": logits_chunk.new_zeros(len(labels)).float()}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return signed weights, [n]; raise RecipeError if no token of the step has a side."""
        name, n = self.config.by, len(stats["none"])
        if name not in cached or cached[name].isnan().all():
            available = ", ".join(sorted(cached)) or "none"
            raise RecipeError(
                f"forgetting: no score {name!r} for {n} of {n} tokens (available: {available}); put "
                "{use: forgetting.split} under tokens:, or set train.loss.by to the name of a score with sides"
            )
        sides = cached[name]
        positive, negative = (sides > 0).float(), (sides < 0).float()
        learnt = positive * n / positive.sum().clamp(min=1)
        unlearnt = negative * n / negative.sum().clamp(min=1)
        return learnt - self.factor(step) * unlearnt

    def factor(self, step: int) -> float:
        """Return lambda at ``step``, counted from 0."""
        config = self.config
        return config.first + (config.last - config.first) * min(1.0, step / config.steps)
