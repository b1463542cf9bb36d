"""The tokens that a token stage chooses among, and a cut through them that each sample can be judged by alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nfilter import BoolArray, FloatArray, RecipeError, State, TokenSample, hash_of, place_of
from nfilter_tokens.cut import Cut, find_cut, highest

Scope = Literal["global", "sample"]
Scored = Callable[[TokenSample], FloatArray]


def pool_of(sample: TokenSample) -> BoolArray:
    """The positions of a sample that are still in the loss: a response token with a weight."""
    pool: BoolArray = sample.response & (sample.weights != 0)
    return pool


@dataclass(frozen=True, slots=True)
class GlobalCut:
    """``int(n * k)`` of the pool of all samples, in the order score descending, sample, position.

    Samples before the cut keep their ties, those after it lose them; ``within`` is how many the sample ``on`` keeps.
    """

    n: int
    kept: int
    cut: Cut
    on: str | None
    within: int
    after: Any

    @classmethod
    def through(cls, stream: Iterable[TokenSample], scored: Scored, k: float) -> GlobalCut:
        """Find the cut; one float32 a token of the pool is held, and 8 bytes a sample that ties with it."""
        ids: list[str] = []
        parts: list[FloatArray] = []
        for sample in stream:
            ids.append(sample.id)
            parts.append(np.asarray(scored(sample)[pool_of(sample)], dtype=np.float32))
        n = sum(len(part) for part in parts)
        kept = int(n * k)
        cut = find_cut(parts, kept)
        left, on, within = cut.ties, None, 0
        after: list[int] = []
        for name, part in zip(ids, parts, strict=True):
            ties = int(cut.at(part).sum())
            if ties <= left:
                left -= ties
            elif left:
                on, within, left = name, left, 0
            else:
                after.append(hash_of(name))
        return cls(n, kept, cut, on, within, np.sort(np.array(after, dtype=np.uint64)))

    def keeps(self, sample: TokenSample, scored: Scored) -> BoolArray:
        """Which positions of ``sample`` ([T]) are kept; False outside the pool."""
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
        """As the state of a stage."""
        mine = {
            "n": self.n, "kept": self.kept, "key": self.cut.key, "ties": self.cut.ties, "on": self.on,
            "within": self.within,
        }  # fmt: skip
        return State({**mine, **values}, {"after": self.after})

    @classmethod
    def of(cls, state: State) -> GlobalCut:
        """What ``to_state`` wrote."""
        v: Any = state.values
        return cls(
            v["n"], v["kept"], Cut(v["key"], v["ties"]), v["on"], v["within"], state.arrays["after"]
        )

    def _is_after(self, name: str) -> bool:
        return place_of(self.after, name) is not None


def keeps_in_sample(sample: TokenSample, scored: Scored, k: float) -> BoolArray:
    """Which positions of ``sample`` ([T]) are among its own ``int(n * k)`` highest; False outside the pool."""
    pool = pool_of(sample)
    scores = np.asarray(scored(sample)[pool], dtype=np.float32)
    out = np.zeros(len(pool), dtype=np.bool_)
    out[pool] = highest(scores, int(len(scores) * k))
    return out


def score_of(sample: TokenSample, by: str, stage: str) -> FloatArray:
    """The score ``by`` of a sample, [T].

    Raises:
        RecipeError: where no stage wrote it, with those that are there.
    """
    found = sample.scores.get(by)
    if found is None:
        there = ", ".join(sorted(sample.scores)) or "none"
        raise RecipeError(
            f"{stage}: no score {by!r} (there: {there}); put the stage that writes it before this one, such as "
            "tokens.excess_loss, or set by to its name"
        )
    return found
