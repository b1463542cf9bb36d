"""Tokens that a stage selects from, and a global cut that can be applied to each sample separately."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nfilter import BoolArray, FloatArray, RecipeError, State, TokenSample, hash_of, place_of
from nfilter_tokens.stored_scores import StoredScores
from nfilter_tokens.top_scores import Cut, find_cut, highest

Scope = Literal["global", "sample"]
ScoreFunction = Callable[[TokenSample], FloatArray]


def pool_of(sample: TokenSample) -> BoolArray:
    """Return the mask ([T]) of positions still in the loss: response tokens with a non-zero weight."""
    pool: BoolArray = sample.response & (sample.weights != 0)
    return pool


@dataclass(frozen=True, slots=True)
class GlobalCut:
    """Cut that keeps ``int(n * k)`` of the n tokens of all samples, in the order score descending, sample, position.

    Among scores equal to the cut, samples before the sample ``on`` keep them all, ``on`` keeps ``within`` of them, and
    samples after it (hashes in ``after``) keep none.
    """

    n: int
    kept: int
    cut: Cut
    on: str | None
    within: int
    after: Any

    @classmethod
    def through(cls, stream: Iterable[TokenSample], scored: ScoreFunction, k: float) -> GlobalCut:
        """Find the cut, exactly, in three passes over the scores.

        The scores of the pool (4 bytes per token, and the ids) are in memory up to ``stored_scores.IN_MEMORY`` bytes and in a temporary
        file beyond. Memory otherwise: 65,536 counters per pass, and 8 bytes per sample after the cut that ties with it.
        """
        with StoredScores() as stored:
            n = 0
            for sample in stream:
                scores = np.asarray(scored(sample)[pool_of(sample)], dtype=np.float32)
                n += len(scores)
                stored.add(sample.id, scores)
            kept = int(n * k)
            cut = find_cut(stored, kept)
            left, on, within = cut.ties, None, 0
            after = array("Q")
            for name, scores in stored.samples():
                ties = int(cut.at(scores).sum())
                if ties <= left:
                    left -= ties
                elif left:
                    on, within, left = name, left, 0
                else:
                    after.append(hash_of(name))
        return cls(n, kept, cut, on, within, np.sort(np.frombuffer(after, dtype=np.uint64)))

    def keeps(self, sample: TokenSample, scored: ScoreFunction) -> BoolArray:
        """Return the mask ([T]) of positions that are kept; False outside the pool."""
        pool = pool_of(sample)
        scores = np.asarray(scored(sample)[pool], dtype=np.float32)
        ties = self.cut.at(scores)
        kept = self.cut.above(scores)
        if sample.id == self.on:
            kept[np.flatnonzero(ties)[: self.within]] = True
        elif not self._is_after(sample.id):
            kept |= ties
        out = np.zeros(len(pool), dtype=np.bool_)
        out[pool] = kept
        return out

    def to_state(self, **values: Any) -> State:
        """Return the cut as the state of a stage, with ``values`` added."""
        fields = {
            "n": self.n, "kept": self.kept, "key": self.cut.key, "ties": self.cut.ties, "on": self.on,
            "within": self.within,
        }  # fmt: skip
        return State({**fields, **values}, {"after": self.after})

    @classmethod
    def of(cls, state: State) -> GlobalCut:
        """Restore the cut from the state that ``to_state`` returned."""
        v: Any = state.values
        return cls(
            v["n"], v["kept"], Cut(v["key"], v["ties"]), v["on"], v["within"], state.arrays["after"]
        )

    def _is_after(self, name: str) -> bool:
        return place_of(self.after, name) is not None


def keeps_in_sample(sample: TokenSample, scored: ScoreFunction, k: float) -> BoolArray:
    """Return the mask ([T]) of the ``int(n * k)`` highest-scored of the sample's n pool tokens."""
    pool = pool_of(sample)
    scores = np.asarray(scored(sample)[pool], dtype=np.float32)
    out = np.zeros(len(pool), dtype=np.bool_)
    out[pool] = highest(scores, int(len(scores) * k))
    return out


def score_of(sample: TokenSample, by: str, stage: str) -> FloatArray:
    """Return the score ``by`` of a sample, [T].

    Raises:
        RecipeError: no earlier stage wrote it.
    """
    scores = sample.scores.get(by)
    if scores is None:
        available = ", ".join(sorted(sample.scores)) or "none"
        raise RecipeError(
            f"{stage}: no score {by!r} (available: {available}); put the stage that writes it before this one, such as "
            "tokens.excess_loss, or set by to its name"
        )
    return scores
