"""``tokens.auto_threshold``: derive the share of tokens to keep from the distribution of the scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from nfilter import Context, Contract, FloatArray, StageConfig, State, TokenSample, token_score
from nfilter_tokens.mixture import Mixture, fit


class AutoThresholdConfig(StageConfig):
    """``by``: score. A token is kept if its posterior of the upper group is at least ``posterior``."""

    by: str = Field(default="excess", description="The score that is split into two groups.")
    posterior: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Probability of the upper group from which a token is kept, between 0 and 1.",
    )


class AutoThreshold:
    """Stage that keeps the tokens in the upper of two groups of scores.

    Token Cleaning keeps a fixed share, as it knows no feasible estimate of the share of noise. This stage fits two
    normal distributions to all scores. If one fits as well (Bayesian information criterion), all tokens are kept with
    a warning; otherwise tokens without a score are masked.
    """

    name: ClassVar[str] = "tokens.auto_threshold"
    Config: ClassVar[type[StageConfig]] = AutoThresholdConfig

    def __init__(self, config: AutoThresholdConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: AutoThresholdConfig) -> Contract:
        return Contract(reads=frozenset({config.by}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Fit the two groups to the scores of all tokens in the loss."""
        parts = [self._scores(sample)[sample.in_loss] for sample in stream]
        mixture = fit(parts)
        if mixture is None or mixture.better <= 0:
            ctx.log.warning(
                f"{self.name}: the scores {self.config.by!r} do not form two groups, so every token is kept; to keep a "
                "fixed share, use tokens.keep_top"
            )
            return State({"groups": None})
        kept = sum(int(self._keeps(part, mixture).sum()) for part in parts)
        total = sum(map(len, parts))
        ctx.log.info(
            f"kept {kept} of {total} response tokens: the upper group has {mixture.share:.0%} of the tokens, mean "
            f"{mixture.means[1]:.3g}, the lower group mean {mixture.means[0]:.3g}"
        )
        report: dict[str, Any] = {"pool": total, "kept": kept}
        return State({"groups": asdict(mixture), "report": report})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        groups: Any = state.values["groups"]
        if groups is None:
            return list(chunk)
        means, deviations = tuple(groups["means"]), tuple(groups["deviations"])
        mixture = Mixture(**{**groups, "means": means, "deviations": deviations})
        return [
            sample.mask(sample.in_loss & ~self._keeps(self._scores(sample), mixture), bit)
            for sample in chunk
        ]

    def _scores(self, sample: TokenSample) -> FloatArray:
        writer = "tokens.excess_loss, or set by to its name"
        return token_score(sample, self.config.by, self.name, writer)

    def _keeps(self, scores: Any, mixture: Mixture) -> Any:
        # NaN compares as False.
        return mixture.upper(scores) >= self.config.posterior
