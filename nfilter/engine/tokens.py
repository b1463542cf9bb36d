"""The loop over token stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nfilter.api.stages import EMPTY_STATE, FitsTokens, State
from nfilter.api.types import TokenSample
from nfilter.engine.invariants import (
    check_state,
    check_tokens,
    check_written,
    unwritten,
    values_of,
)
from nfilter.models.context import RunContext
from nfilter.recipe.model import Recipe
from nfilter.registry.contracts import contract_of

Gone = list[tuple[str, str]]
Contexts = Callable[[str, str], RunContext]
"""The context of a stage, by its label and the name of its random numbers."""


@dataclass(frozen=True, slots=True)
class TokenRun:
    """What the token stages left: samples with a weight, reason bits by name, who left and why, and figures.

    ``every`` has the samples that left too, as they were then.
    """

    samples: list[TokenSample]
    every: list[TokenSample]
    reasons: list[str]
    gone: Gone
    figures: dict[str, Any]


def run_token_stages(
    recipe: Recipe, samples: Sequence[TokenSample], contexts: Contexts
) -> TokenRun:
    """Run the recipe's token stages in order; none is asked where there is no sample.

    Raises:
        ContractError: when a stage breaks an invariant.
    """
    current = list(samples)
    names = [use.name for use in recipe.tokens]
    stages: dict[str, Any] = {}
    for bit, use in enumerate(recipe.tokens if samples else ()):
        stage = use.item.cls(use.config)
        # Random numbers go by name, so that a stage put in before this one does not redraw it.
        stream = f"{use.name}#{names[:bit].count(use.name)}"
        ctx = contexts(use.name, stream)
        contract = contract_of(use.item.cls, use.config)
        state = EMPTY_STATE
        if isinstance(stage, FitsTokens):
            state = check_state(use.name, "fit_tokens", stage.fit_tokens(current, ctx))
        done: list[TokenSample] = []
        for start in range(0, len(current), recipe.chunk):
            chunk = current[start : start + recipe.chunk]
            given = stage.process_tokens(chunk, state, ctx, bit)
            returned = values_of(use.name, "process_tokens", TokenSample, given)
            check_tokens(use.name, contract, chunk, returned, bit)
            done += returned
        check_written(use.name, contract, unwritten(contract, done), len(done))
        stages[f"{bit + 1}-{use.name}"] = {**_lost(current, done), **_report(state)}
        current = done
    kept = [sample for sample in current if sample.weights.any()]
    gone = [
        (sample.id, f"no token has a weight left after {', '.join(_who(sample, names))}")
        for sample in current
        if not sample.weights.any()
    ]
    figures = {
        "response": sum(int(sample.response.sum()) for sample in samples),
        "in_loss": sum(int(np.count_nonzero(sample.weights)) for sample in kept),
        "stages": stages,
    }
    return TokenRun(kept, current, names, gone, figures)


def _lost(before: Sequence[TokenSample], after: Sequence[TokenSample]) -> dict[str, int]:
    """How many tokens a stage took out of the loss, and how many samples lost their last one."""
    counts = [
        (np.count_nonzero(was.weights), np.count_nonzero(now.weights))
        for was, now in zip(before, after, strict=True)
    ]
    return {
        "masked": int(sum(was - now for was, now in counts)),
        "samples_emptied": sum(bool(was) and not now for was, now in counts),
    }


def _report(state: State) -> Mapping[str, Any]:
    report = state.values.get("report")
    # Under a key of its own: a stage that counts what it masked overwrites nothing that the engine counted.
    return {"report": report} if isinstance(report, Mapping) else {}


def _who(sample: TokenSample, names: Sequence[str]) -> list[str]:
    bits = int(np.bitwise_or.reduce(sample.reasons)) if len(sample.reasons) else 0
    return [name for bit, name in enumerate(names) if bits >> bit & 1] or ["encoding"]
