"""``tokens.self_evolve``: clean each part of the data with a reference trained on the previous parts.

Token Cleaning, Algorithm 1. The samples are split into T + 1 parts. The first trains a reference with all its tokens.
Each later part is scored with the current reference, keeps its best tokens, and continues training the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    BoolArray,
    Context,
    Contract,
    FloatArray,
    ModelRef,
    Needs,
    Proportion,
    Scores,
    StageConfig,
    State,
    TokenCut,
    TokenSample,
    hash_of,
)


class SelfEvolveConfig(StageConfig):
    """``rounds``: T, number of parts cleaned after the warm-up part. ``k``: share of tokens kept in each part.

    ``base: fixed`` compares the reference with the untrained model in every round (the paper's text and published
    code); ``previous`` with the previous round's reference (Algorithm 1 as printed). ``into`` is the score's name.
    """

    model: Annotated[str, Needs(Scores)] = Field(
        default="student", description="The model before training."
    )
    rounds: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Parts that are cleaned after the warm-up part, 1 to 64.",
    )
    k: Proportion = Field(
        default=0.6, description="Share of the tokens of each part that is kept, 0 to 1."
    )
    base: Literal["fixed", "previous"] = Field(
        default="fixed",
        description="The model that the reference is compared with: always the untrained one (fixed), or the reference of the round before (previous).",
    )
    into: str = Field(default="excess", description="The score with the excess loss.")


@dataclass(frozen=True, slots=True)
class _Decision:
    """Decision on one sample: the mask of kept positions and their scores, both [T]."""

    kept: BoolArray
    scores: FloatArray


class SelfEvolve:
    """Stage that scores and masks part by part and publishes the last reference.

    ``train: {use: adopt, from: tokens.self_evolve}`` adopts that reference. The stage trains with the recipe's trainer,
    which an adopting recipe names under ``with``. The first part keeps all its tokens and has no score.
    """

    name: ClassVar[str] = "tokens.self_evolve"
    Config: ClassVar[type[StageConfig]] = SelfEvolveConfig

    def __init__(self, config: SelfEvolveConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelfEvolveConfig) -> Contract:
        return Contract(writes=frozenset({config.into}), trains=True)

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Process the parts in order; store one float32 and one bool per token for ``process_tokens``."""
        samples = list(stream)
        if not samples:
            return State({})
        # A sample that an earlier stage masked completely is in no part: it has no token to train on or to mask.
        parts = self._parts([sample for sample in samples if sample.weights.any()], ctx)
        decisions: dict[str, _Decision] = {
            sample.id: _Decision(sample.in_loss, np.full(len(sample.ids), np.nan, np.float32))
            for sample in samples
        }
        ctx.log.info(
            f"part 0 of {self.config.rounds}: warm-up of the reference on {len(parts[0])} samples"
        )
        previous: ModelRef | None = None
        reference = ctx.train(parts[0])
        kept = pool = 0
        for number, part in enumerate(parts[1:], start=1):
            scored = self._score_part(part, previous, reference, ctx)
            cut = TokenCut.through(
                scored, lambda s: s.scores[self.config.into], lambda n: int(n * self.config.k)
            )
            cleaned = []
            for sample in scored:
                keep = cut.keeps(sample, lambda s: s.scores[self.config.into])
                decisions[sample.id] = _Decision(keep, sample.scores[self.config.into])
                cleaned.append(sample.mask(sample.in_loss & ~keep, 0))
            kept, pool = kept + cut.kept, pool + cut.n
            ctx.log.info(
                f"part {number} of {self.config.rounds}: kept {cut.kept} of {cut.n} response tokens"
            )
            trained = ctx.train(cleaned, reference) if cut.kept else reference
            previous, reference = reference, trained
        ctx.publish_model(reference)
        report: dict[str, Any] = {"pool": pool, "kept": kept}
        return _to_state(samples, decisions, report)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Write the scores and mask the tokens that the sample's round removed."""
        out = []
        for sample in chunk:
            decision = _decision_of(sample, state)
            scored = sample.score(self.config.into, decision.scores)
            out.append(scored.mask(sample.in_loss & ~decision.kept, bit))
        return out

    def _parts(self, samples: Sequence[TokenSample], ctx: Context) -> list[list[TokenSample]]:
        """Draw T + 1 parts of nearly equal size with the run's seed, each in dataset order."""
        order = sorted(range(len(samples)), key=lambda i: ctx.rng(samples[i].id).random())
        groups = np.array_split(np.asarray(order, dtype=np.int64), self.config.rounds + 1)
        return [[samples[i] for i in sorted(group.tolist())] for group in groups]

    def _score_part(
        self,
        part: Sequence[TokenSample],
        previous: ModelRef | None,
        reference: ModelRef,
        ctx: Context,
    ) -> list[TokenSample]:
        model = ctx.model(self.config.model)
        base = previous if self.config.base == "previous" else None
        losses = zip(part, model.score(part, base), model.score(part, reference), strict=True)
        return [sample.score(self.config.into, b - r) for sample, b, r in losses]


def _to_state(
    samples: Sequence[TokenSample], decisions: dict[str, _Decision], report: dict[str, Any]
) -> State:
    order = sorted(range(len(samples)), key=lambda i: hash_of(samples[i].id))
    ordered = [samples[i] for i in order]
    ends = np.cumsum([len(s.ids) for s in ordered], dtype=np.int64)
    return State(
        {"report": report},
        {
            "keys": np.array([hash_of(s.id) for s in ordered], dtype=np.uint64),
            "ends": ends,
            "kept": _concatenate([decisions[s.id].kept for s in ordered], np.bool_),
            "scores": _concatenate([decisions[s.id].scores for s in ordered], np.float32),
        },
    )


def _decision_of(sample: TokenSample, state: State) -> _Decision:
    arrays = state.arrays
    index = int(np.searchsorted(arrays["keys"], np.uint64(hash_of(sample.id))))
    end = int(arrays["ends"][index])
    start = end - len(sample.ids)
    return _Decision(arrays["kept"][start:end], arrays["scores"][start:end])


def _concatenate(parts: Sequence[Any], dtype: type) -> Any:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)
