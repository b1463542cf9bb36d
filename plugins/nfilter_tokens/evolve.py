"""``tokens.self_evolve``: each part of the data is cleaned by a reference that the parts before it trained.

Token Cleaning, Algorithm 1. The samples are split into T + 1 parts. The first trains a reference with all its tokens.
Each further part is scored with the reference as it is then, keeps its best tokens, and trains the reference on.
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
    Scores,
    StageConfig,
    State,
    TokenSample,
    hash_of,
)
from nfilter_tokens.pool import GlobalCut, pool_of


class SelfEvolveConfig(StageConfig):
    """``rounds``: T, the parts that are cleaned after the one that warms up. ``k``: the share kept of each part.

    ``base: fixed`` compares the reference with the untrained model in every round (the text, and the published code);
    ``previous`` with the reference of the round before (Algorithm 1 as printed). ``into`` is the score's name.
    """

    model: Annotated[str, Needs(Scores)] = "student"
    rounds: int = Field(default=4, ge=1, le=64)
    k: float = Field(default=0.6, ge=0, le=1)
    base: Literal["fixed", "previous"] = "fixed"
    into: str = "excess"


@dataclass(frozen=True, slots=True)
class _Found:
    """What was decided on one sample: which positions stay, and their scores, both [T]."""

    kept: BoolArray
    scores: FloatArray


class SelfEvolve:
    """Scores and masks part by part, and publishes the last reference: ``train: {use: adopt, from: tokens.self_evolve}``.

    It trains with the recipe's own trainer, which stands under ``with`` where the recipe adopts. The first part
    keeps all its tokens and has no score.
    """

    name: ClassVar[str] = "tokens.self_evolve"
    Config: ClassVar[type[StageConfig]] = SelfEvolveConfig

    def __init__(self, config: SelfEvolveConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelfEvolveConfig) -> Contract:
        """Writes a score, and trains."""
        return Contract(writes=frozenset({config.into}), trains=True)

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Go through the parts; one float32 and one bool a token are kept for ``process_tokens``."""
        samples = list(stream)
        if not samples:
            return State({})
        # What an earlier stage emptied is in no part: it teaches nothing, and has nothing to lose.
        parts = self._parts([sample for sample in samples if sample.weights.any()], ctx)
        found: dict[str, _Found] = {
            sample.id: _Found(pool_of(sample), np.full(len(sample.ids), np.nan, np.float32))
            for sample in samples
        }
        ctx.log.info(
            f"part 0 of {self.config.rounds}: {len(parts[0])} samples warm the reference up"
        )
        before: ModelRef | None = None
        reference = ctx.train(parts[0])
        kept = pool = 0
        for number, part in enumerate(parts[1:], start=1):
            scored = self._scored(part, before, reference, ctx)
            cut = GlobalCut.through(scored, lambda s: s.scores[self.config.into], self.config.k)
            cleaned = []
            for sample in scored:
                stays = cut.keeps(sample, lambda s: s.scores[self.config.into])
                found[sample.id] = _Found(stays, sample.scores[self.config.into])
                cleaned.append(sample.mask(pool_of(sample) & ~stays, 0))
            kept, pool = kept + cut.kept, pool + cut.n
            ctx.log.info(
                f"part {number} of {self.config.rounds}: {cut.kept} of {cut.n} response tokens are kept"
            )
            trained = ctx.train(cleaned, reference) if cut.kept else reference
            before, reference = reference, trained
        ctx.publish_model(reference)
        report: dict[str, Any] = {"pool": pool, "kept": kept}
        return _packed(samples, found, report)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask what the sample's round took out."""
        del ctx
        out = []
        for sample in chunk:
            found = _of(sample, state)
            scored = sample.score(self.config.into, found.scores)
            out.append(scored.mask(pool_of(sample) & ~found.kept, bit))
        return out

    def _parts(self, samples: Sequence[TokenSample], ctx: Context) -> list[list[TokenSample]]:
        """T + 1 parts of nearly equal size, drawn with the run's seed, each in the order of the data."""
        order = sorted(range(len(samples)), key=lambda i: ctx.rng(samples[i].id).random())
        groups = np.array_split(np.asarray(order, dtype=np.int64), self.config.rounds + 1)
        return [[samples[i] for i in sorted(group.tolist())] for group in groups]

    def _scored(
        self,
        part: Sequence[TokenSample],
        before: ModelRef | None,
        reference: ModelRef,
        ctx: Context,
    ) -> list[TokenSample]:
        model = ctx.model(self.config.model)
        base = before if self.config.base == "previous" else None
        losses = zip(part, model.score(part, base), model.score(part, reference), strict=True)
        return [sample.score(self.config.into, b - r) for sample, b, r in losses]


def _packed(
    samples: Sequence[TokenSample], found: dict[str, _Found], report: dict[str, Any]
) -> State:
    order = sorted(range(len(samples)), key=lambda i: hash_of(samples[i].id))
    ordered = [samples[i] for i in order]
    ends = np.cumsum([len(s.ids) for s in ordered], dtype=np.int64)
    return State(
        {"report": report},
        {
            "keys": np.array([hash_of(s.id) for s in ordered], dtype=np.uint64),
            "ends": ends,
            "kept": _joined([found[s.id].kept for s in ordered], np.bool_),
            "scores": _joined([found[s.id].scores for s in ordered], np.float32),
        },
    )


def _of(sample: TokenSample, state: State) -> _Found:
    arrays = state.arrays
    place = int(np.searchsorted(arrays["keys"], np.uint64(hash_of(sample.id))))
    end = int(arrays["ends"][place])
    start = end - len(sample.ids)
    return _Found(arrays["kept"][start:end], arrays["scores"][start:end])


def _joined(parts: Sequence[Any], kind: type) -> Any:
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, dtype=kind)
