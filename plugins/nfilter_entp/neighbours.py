"""Texts as vectors, copies as one, and the nearest others of each by cosine similarity.

A text is kept once, however often it occurs: no copy is its own neighbour, and none votes twice. Texts are put in the order
of their hashes, so that nothing depends on the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import Context, FloatArray, IntArray, ModelError, Sample, hash_of

EXACT_UP_TO = 50_000

_BLOCK = 1024
_PROBES = 32  # cells that a search past EXACT_UP_TO looks into


@dataclass
class Texts:
    """Rows and their distinct texts: ``row_text`` [rows] is the place of each row's text in ``vectors`` [n, d]."""

    ids: npt.NDArray[np.uint64]
    row_text: IntArray
    vectors: FloatArray

    @property
    def n(self) -> int:
        return len(self.vectors)


@dataclass
class Collector:
    """Embeds samples as they stream by, each distinct ``text`` once, ``_BLOCK`` texts at a time."""

    ctx: Context
    encoder: str
    text: Callable[[Sample], str] = field(default_factory=lambda: text_of)
    ids: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)
    _chosen: list[int] = field(default_factory=list)
    _waiting: list[tuple[int, str]] = field(default_factory=list)
    _blocks: list[tuple[list[int], FloatArray]] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Take in a sample; its text is embedded where it is new."""
        text = self.text(sample)
        # What differs in case or blanks alone is a copy.
        key = hash_of(" ".join(text.casefold().split()))
        self.ids.append(hash_of(sample.id))
        self.keys.append(key)
        place = self._places.setdefault(key, len(self._places))
        exact = hash_of(text)
        if place == len(self._chosen):
            self._chosen.append(exact)
        elif exact < self._chosen[place]:
            # Of several ways to write a text the one of lowest hash stands for it, whichever came first.
            self._chosen[place] = exact
        else:
            return
        self._waiting.append((place, text))
        if len(self._waiting) == _BLOCK:
            self._embed()

    def texts(self) -> Texts:
        """All that was added. The vectors are unit vectors, or zero."""
        self._embed()
        keys = np.fromiter(self._places, dtype=np.uint64, count=len(self._places))
        order = np.argsort(keys)
        target = np.empty_like(order)
        target[order] = np.arange(len(order))
        width = self._blocks[0][1].shape[1] if self._blocks else 0
        vectors = np.empty((len(keys), width), dtype=np.float32)
        while self._blocks:
            places, block = self._blocks.pop(0)
            vectors[target[places]] = block
        rows = np.searchsorted(keys[order], np.array(self.keys, dtype=np.uint64))
        return Texts(np.array(self.ids, dtype=np.uint64), rows.astype(np.int64), vectors)

    def _embed(self) -> None:
        if not self._waiting:
            return
        unit = embedded(self.ctx, self.encoder, [text for _, text in self._waiting])
        self._blocks.append(([place for place, _ in self._waiting], unit))
        self._waiting = []


def embedded(ctx: Context, encoder: str, texts: Sequence[str]) -> FloatArray:
    """Unit vectors, float32 [n, d], of ``texts``; a vector of zeros stays one.

    Raises:
        ModelError: when a vector holds NaN or infinity.
    """
    found = np.asarray(ctx.model(encoder).embed(texts), dtype=np.float64)
    if not np.isfinite(found).all():
        bad = texts[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
        raise ModelError(
            f"model {encoder!r}: the vector of {bad[:60]!r} holds NaN or infinity; name another encoder"
        )
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.ascontiguousarray(found / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def text_of(sample: Sample) -> str:
    """What is embedded of a sample: its query and its response."""
    return f"{sample.query}\n{sample.response}"


def nearest(
    vectors: FloatArray,
    k: int,
    voters: npt.NDArray[np.bool_] | None = None,
    exact_up_to: int = EXACT_UP_TO,
) -> tuple[FloatArray, IntArray]:
    """The ``k`` most similar other rows of ``vectors`` [n, d] to each: similarities [n, k] and places [n, k].

    Where ``voters`` [n] are given, only those are found. Nearest first; -inf and -1 where there are too few. Up to
    ``exact_up_to`` voters are compared with each other one by one; more are cut into cells, of which a search sees
    the 32 nearest, so that some neighbours are not the very nearest.
    """
    import faiss

    n = len(vectors)
    places = np.arange(n) if voters is None else np.flatnonzero(voters)
    similarity = np.full((n, k), -np.inf, dtype=np.float32)
    near = np.full((n, k), -1, dtype=np.int64)
    m = min(k + 1, len(places))  # one more: a row finds itself
    if not m:
        return similarity, near
    base = vectors if len(places) == n else np.ascontiguousarray(vectors[places])
    search = _search(faiss, base, exact_up_to)
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        found, at = search(vectors[rows], m)
        owner = np.where(at >= 0, places[at], -1)
        own = np.arange(n)[rows, None] == owner
        # Itself last, wherever among its equals it was found.
        order = np.argsort(own | (owner < 0), axis=1, kind="stable")[:, :k]
        taken = np.take_along_axis(owner, order, axis=1)
        gone = np.take_along_axis(own, order, axis=1) | (taken < 0)
        width = taken.shape[1]
        near[rows, :width] = np.where(gone, -1, taken)
        similarity[rows, :width] = np.where(gone, -np.inf, np.take_along_axis(found, order, axis=1))
    return similarity, near


def _search(faiss: Any, base: FloatArray, exact_up_to: int) -> Any:
    if len(base) <= exact_up_to:
        return lambda rows, m: faiss.knn(rows, base, m, metric=faiss.METRIC_INNER_PRODUCT)
    cells = max(1, min(round(4 * math.sqrt(len(base))), len(base) // 40))
    index = faiss.index_factory(base.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    # A fixed part, always the same, is enough to find the cells with.
    index.train(base[:: max(1, len(base) // (40 * cells))])
    index.add(base)
    index.nprobe = min(_PROBES, cells)
    return index.search
