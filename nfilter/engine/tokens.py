"""The stage kind of token stages, and the samples that they leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nfilter.api.stages import Contract, FitsTokens, State
from nfilter.api.types import TokenSample
from nfilter.engine.invariants import check_tokens, values_of
from nfilter.engine.stages import Chunk, Fit, StageRun
from nfilter.models.context import RunContext


class TokenKind:
    """Calls a token stage with the number of its reason bit. Every sample is kept; one that lost all weights is recorded."""

    fit_name = "fit_tokens"

    def __init__(self, run: StageRun[TokenSample], contract: Contract, bit: int) -> None:
        self._label = run.label
        self._contract = contract
        self._bit = bit

    def fit(self, stage: Any) -> Fit[TokenSample] | None:
        return stage.fit_tokens if isinstance(stage, FitsTokens) else None

    def shown(self, samples: Iterable[TokenSample]) -> Iterator[TokenSample]:
        """Yield every sample."""
        return iter(samples)

    def process(
        self, stage: Any, chunk: Sequence[TokenSample], state: State, ctx: RunContext
    ) -> Chunk[TokenSample]:
        """Call ``stage.process_tokens``.

        Raises:
            ContractError: if the stage breaks an invariant.
        """
        returned = values_of(
            self._label,
            "process_tokens",
            TokenSample,
            stage.process_tokens(list(chunk), state, ctx, self._bit),
        )
        check_tokens(self._label, self._contract, chunk, returned, self._bit)
        decisions = [
            {"id": now.id, "stage": self._label, "action": "empty", "reason": EMPTIED}
            for was, now in zip(chunk, returned, strict=True)
            if was.weights.any() and not now.weights.any()
        ]
        return Chunk(returned, decisions)

    def join(self, before: Sequence[TokenSample], after: Chunk[TokenSample]) -> None:
        """Do nothing: a token stage makes no samples."""

    def count(self, before: Sequence[TokenSample], after: Chunk[TokenSample]) -> dict[str, int]:
        """Count samples with a weight, without one, and with changed weights; tokens masked and samples emptied by this stage."""
        pairs = list(zip(before, after.samples, strict=True))
        kept = sum(bool(now.weights.any()) for _, now in pairs)
        return {
            "kept": kept,
            "dropped": len(pairs) - kept,
            "changed": sum(not np.array_equal(was.weights, now.weights) for was, now in pairs),
            "masked": sum(_in_loss(was) - _in_loss(now) for was, now in pairs),
            "emptied": len(after.decisions),
        }


EMPTIED = "it has no token left in the loss"


@dataclass(frozen=True, slots=True)
class TokensLeft:
    """The result of all token stages: samples with a weight, the others as id and reason, and the number of tokens in the loss."""

    kept: list[TokenSample]
    dropped: list[tuple[str, str]]
    in_loss: int


def left_of(samples: Sequence[TokenSample], stages: Sequence[str]) -> TokensLeft:
    """Separate ``samples`` with a weight from those without; ``stages`` are the names of the reason bits."""
    kept = [sample for sample in samples if sample.weights.any()]
    dropped = [
        (sample.id, f"no token has a weight left after {', '.join(_maskers(sample, stages))}")
        for sample in samples
        if not sample.weights.any()
    ]
    return TokensLeft(kept, dropped, sum(_in_loss(sample) for sample in kept))


def _in_loss(sample: TokenSample) -> int:
    return int(np.count_nonzero(sample.weights))


def _maskers(sample: TokenSample, stages: Sequence[str]) -> list[str]:
    bits = int(np.bitwise_or.reduce(sample.reasons)) if len(sample.reasons) else 0
    return [name for bit, name in enumerate(stages) if bits >> bit & 1] or ["encoding"]
