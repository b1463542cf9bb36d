"""Selection of the tokens with the highest scores, in one sample or in all, in a stable order.

The order is score descending, then sample, then position (as ``argsort(-scores, kind="stable")`` over the flat scores); NaN comes
last. The threshold is found with two counting passes over 16 bits of a key each, without holding the scores in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nfilter.api.capabilities import Attends
from nfilter.api.errors import RecipeError
from nfilter.api.ids import hash_of, place_of
from nfilter.api.stages import State
from nfilter.api.stored_scores import StoredScores
from nfilter.api.types import BoolArray, FloatArray, TokenSample

Keys: TypeAlias = npt.NDArray[np.uint32]

_BLOCK = 2**20
_PARTS = 2**12
_BINS = 2**16


@dataclass(frozen=True, slots=True)
class Threshold:
    """Threshold that keeps every key above ``key`` and the first ``ties`` keys equal to it."""

    key: int
    ties: int

    def above(self, scores: FloatArray) -> BoolArray:
        """Return the mask ([n]) of scores above the cut."""
        above: BoolArray = keys_of(scores) > self.key
        return above

    def at(self, scores: FloatArray) -> BoolArray:
        """Return the mask ([n]) of scores equal to the cut; their order decides which are kept."""
        equal: BoolArray = keys_of(scores) == self.key
        return equal


@dataclass(frozen=True, slots=True)
class TokenCut:
    """Cut through the tokens of all samples, which can be applied to each sample separately.

    ``kept`` of the ``n`` tokens in the loss are above it, in the order score descending, sample, position. Among scores equal to
    the threshold, samples before the sample ``on`` keep them all, ``on`` keeps ``within`` of them, and samples after it (hashes in
    ``after``) keep none. A NaN score is the lowest.
    """

    n: int
    kept: int
    threshold: Threshold
    on: str | None
    within: int
    after: npt.NDArray[np.uint64]

    @classmethod
    def through(
        cls,
        samples: Iterable[TokenSample],
        scored: Callable[[TokenSample], FloatArray],
        count: Callable[[int], int],
    ) -> TokenCut:
        """Find the cut, exactly, in three passes over the scores.

        The scores in the loss (4 bytes per token, and the ids) are in memory up to ``stored_scores.IN_MEMORY`` bytes and in a temporary
        file beyond. Memory otherwise: 65,536 counters per pass, and 8 bytes per sample after the cut that ties with it.

        Args:
            samples: All samples, in the order that breaks ties.
            scored: Returns the score of each token, [T].
            count: Returns how many of n tokens are kept.
        """
        with StoredScores() as stored:
            n = 0
            for sample in samples:
                scores = np.asarray(scored(sample)[sample.in_loss], dtype=np.float32)
                n += len(scores)
                stored.add(sample.id, scores)
            kept = count(n)
            threshold = find_threshold(stored, kept)
            left, on, within = threshold.ties, None, 0
            after = array("Q")
            for name, scores in stored.samples():
                ties = int(threshold.at(scores).sum())
                if ties <= left:
                    left -= ties
                elif left:
                    on, within, left = name, left, 0
                else:
                    after.append(hash_of(name))
        return cls(n, kept, threshold, on, within, np.sort(np.frombuffer(after, dtype=np.uint64)))

    def keeps(self, sample: TokenSample, scored: Callable[[TokenSample], FloatArray]) -> BoolArray:
        """Return the mask ([T]) of tokens that are kept; False outside the loss."""
        in_loss = sample.in_loss
        scores = np.asarray(scored(sample)[in_loss], dtype=np.float32)
        ties = self.threshold.at(scores)
        kept = self.threshold.above(scores)
        if sample.id == self.on:
            kept[np.flatnonzero(ties)[: self.within]] = True
        elif place_of(self.after, sample.id) is None:
            kept |= ties
        out = np.zeros(len(in_loss), dtype=np.bool_)
        out[in_loss] = kept
        return out

    def to_state(self, **values: Any) -> State:
        """Return the cut as the state of a stage, with ``values`` added."""
        fields = {
            "n": self.n, "kept": self.kept, "key": self.threshold.key, "ties": self.threshold.ties, "on": self.on,
            "within": self.within,
        }  # fmt: skip
        return State({**fields, **values}, {"after": self.after})

    @classmethod
    def of(cls, state: State) -> TokenCut:
        """Restore the cut from the state that ``to_state`` returned."""
        v: Any = state.values
        threshold = Threshold(v["key"], v["ties"])
        return cls(v["n"], v["kept"], threshold, v["on"], v["within"], state.arrays["after"])


def token_score(sample: TokenSample, name: str, stage: str, writer: str) -> FloatArray:
    """Return a score of the tokens, [T], for ``stage``; ``writer`` is what to write before it.

    Raises:
        RecipeError: if no earlier stage wrote the score.
    """
    scores = sample.scores.get(name)
    if scores is None:
        available = ", ".join(sorted(sample.scores)) or "none"
        raise RecipeError(
            f"{stage}: no score {name!r} (available: {available}); put the stage that writes it before this one, such as {writer}"
        )
    return scores


def keys_of(scores: FloatArray) -> Keys:
    """Map float32 ``scores`` to unsigned integers in the same order; -0 equals 0, and NaN is below all numbers."""
    plain = np.asarray(scores, dtype=np.float32) + np.float32(0)
    bits = plain.view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    keys = np.where(negative, ~bits, bits | np.uint32(0x80000000))
    return np.where(np.isnan(plain), np.uint32(0), keys)


def find_threshold(parts: Iterable[FloatArray], keep: int) -> Threshold:
    """Return the threshold that keeps ``keep`` of all scores in ``parts``, or all scores if there are fewer.

    Args:
        parts: the scores; iterated twice. Counters of several parts are added, so the parts need not be in memory together.
        keep: number of scores to keep.
    """
    if keep <= 0:
        return Threshold(_BINS * _BINS, 0)  # above every key
    high_counts = _count_bins(keys >> np.uint32(16) for keys in _key_blocks(parts))
    if keep >= high_counts.sum():
        return Threshold(-1, 0)
    high_bin, above = _bin_of(high_counts, keep)
    low_counts = _count_bins(
        keys[keys >> np.uint32(16) == high_bin] & np.uint32(0xFFFF) for keys in _key_blocks(parts)
    )
    low_bin, above_inside = _bin_of(low_counts, keep - above)
    return Threshold(int(high_bin) * _BINS + low_bin, keep - above - above_inside)


def highest_scores(scores: FloatArray, keep: int) -> BoolArray:
    """Return the mask ([n]) of the first ``keep`` scores in order."""
    cut = find_threshold([scores], keep)
    kept = cut.above(scores)
    kept[np.flatnonzero(cut.at(scores))[: cut.ties]] = True
    return kept


def _key_blocks(parts: Iterable[FloatArray]) -> Iterator[Keys]:
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            yield keys_of(part[start : start + _BLOCK])


def _count_bins(blocks: Iterable[Keys]) -> npt.NDArray[np.int64]:
    counts = np.zeros(_BINS, dtype=np.int64)
    buffered: list[Keys] = []
    size = 0
    # Short parts are counted together: one pass over all bins per sample would dominate.
    for block in blocks:
        buffered.append(block)
        size += len(block)
        if size >= _BLOCK or len(buffered) >= _PARTS:
            counts += _histogram(buffered)
            buffered, size = [], 0
    return counts + _histogram(buffered) if buffered else counts


def _histogram(blocks: Sequence[Keys]) -> Any:
    return np.bincount(np.concatenate(blocks), minlength=_BINS)


def _bin_of(counts: npt.NDArray[np.int64], keep: int) -> tuple[int, int]:
    """Return the bin of the ``keep``-th highest key and the number of keys in the bins above it."""
    from_above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_above, keep))
    above = int(from_above[index - 1]) if index else 0
    return _BINS - 1 - index, above


def response_attention(
    model: Attends,
    samples: Sequence[TokenSample],
    reduce: Callable[[Any, TokenSample], Any],
    layers: slice = slice(None),
) -> Iterator[FloatArray]:
    """Yield float32 [T] per sample: the reduced attention, its mean over ``layers``, at response tokens; NaN elsewhere.

    A sample without a response is not read. ``reduce`` and ``layers`` are those of ``Attends.attention``.
    """
    attention = model.attention([each for each in samples if each.response.any()], reduce, layers)
    for sample in samples:
        scores = np.full(len(sample.ids), np.nan, dtype=np.float32)
        if sample.response.any():
            mean = np.stack(next(attention)).mean(axis=0, dtype=np.float64)
            scores[sample.response] = mean[sample.response]
        yield scores
