"""``tokens.auto_threshold``: how many tokens to keep, told by the scores themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from nfilter import Context, Contract, StageConfig, State, TokenSample
from nfilter_tokens.mixture import Mixture, fit
from nfilter_tokens.pool import pool_of, score_of


class AutoThresholdConfig(StageConfig):
    """``by``: the score. A token is kept where it belongs to the upper group with ``posterior`` or more."""

    by: str = "excess"
    posterior: float = Field(default=0.5, gt=0, lt=1)


class AutoThreshold:
    """Keeps the tokens of the upper of two groups of scores.

    The paper knows no feasible way to estimate the share of noise among tokens (Token Cleaning), and
    takes a fixed share. This fits two normal distributions to all scores. Where one fits as well (by the Bayesian
    information criterion), everything is kept, and that is said; a token without a score is taken out.
    """

    name: ClassVar[str] = "tokens.auto_threshold"
    Config: ClassVar[type[StageConfig]] = AutoThresholdConfig

    def __init__(self, config: AutoThresholdConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: AutoThresholdConfig) -> Contract:
        """Reads a score."""
        return Contract(reads=frozenset({config.by}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Fit the two groups to the scores of all tokens in the loss."""
        parts = [score_of(sample, self.config.by, self.name)[pool_of(sample)] for sample in stream]
        found = fit(parts)
        if found is None or found.better <= 0:
            ctx.log.warning(
                f"the scores {self.config.by!r} do not fall into two groups: every token is kept; choose a share "
                "yourself with tokens.keep_top"
            )
            return State({"groups": None})
        kept = sum(int(self._keeps(part, found).sum()) for part in parts)
        total = sum(map(len, parts))
        ctx.log.info(
            f"{kept} of {total} response tokens are kept: the upper group has {found.share:.0%} of the tokens, mean "
            f"{found.means[1]:.3g} against {found.means[0]:.3g}"
        )
        report: dict[str, Any] = {"pool": total, "kept": kept}
        return State({"groups": asdict(found), "report": report})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask what belongs to the lower group."""
        del ctx
        groups: Any = state.values["groups"]
        if groups is None:
            return list(chunk)
        means, deviations = tuple(groups["means"]), tuple(groups["deviations"])
        found = Mixture(**{**groups, "means": means, "deviations": deviations})
        return [
            sample.mask(
                pool_of(sample) & ~self._keeps(score_of(sample, self.config.by, self.name), found),
                bit,
            )
            for sample in chunk
        ]

    def _keeps(self, scores: Any, found: Mixture) -> Any:
        # A score that is NaN compares as False.
        return found.upper(scores) >= self.config.posterior
