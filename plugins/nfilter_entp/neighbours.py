"""Embed distinct texts and find the nearest others of each by cosine similarity.

Each distinct text is embedded once, so that copies neither neighbour nor vote for each other. Texts are ordered by
hash; results do not depend on the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import Context, FloatArray, IntArray, ModelError, Sample, hash_of

EXACT_UP_TO = 50_000
ExactUpTo: TypeAlias = Annotated[
    int,
    Field(
        ge=1,
        description="Up to this number of vectors the search is exact, above it approximate (IVF).",
    ),
]

_BLOCK = 1024
_PROBES = 32  # cells probed by an approximate search


@dataclass
class Texts:
    """Rows and their distinct texts: ``row_text`` [rows] indexes ``vectors`` [n, d]."""

    ids: npt.NDArray[np.uint64]
    row_text: IntArray
    vectors: FloatArray

    @property
    def n(self) -> int:
        return len(self.vectors)


@dataclass
class Collector:
    """Embeds streamed samples, each distinct ``text`` once, in blocks of ``_BLOCK`` texts."""

    ctx: Context
    encoder: str
    text: Callable[[Sample], str] = field(default_factory=lambda: embedded_text)
    ids: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    _index_of: dict[int, int] = field(default_factory=dict)
    _variant_hash: list[int] = field(default_factory=list)
    _pending: list[tuple[int, str]] = field(default_factory=list)
    _blocks: list[tuple[list[int], FloatArray]] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Add a sample; embed its text if it is new."""
        text = self.text(sample)
        # Texts that differ only in case or white space are copies.
        key = hash_of(" ".join(text.casefold().split()))
        self.ids.append(hash_of(sample.id))
        self.keys.append(key)
        index = self._index_of.setdefault(key, len(self._index_of))
        exact = hash_of(text)
        if index == len(self._variant_hash):
            self._variant_hash.append(exact)
        elif exact < self._variant_hash[index]:
            # The variant with the lowest hash represents the text, whatever the order of rows.
            self._variant_hash[index] = exact
        else:
            return
        self._pending.append((index, text))
        if len(self._pending) == _BLOCK:
            self._embed_pending()

    def texts(self) -> Texts:
        """Return all rows and texts added. Vectors have length 1, or 0."""
        self._embed_pending()
        keys = np.fromiter(self._index_of, dtype=np.uint64, count=len(self._index_of))
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

    def _embed_pending(self) -> None:
        if not self._pending:
            return
        unit = embed_unit(self.ctx, self.encoder, [text for _, text in self._pending])
        self._blocks.append(([index for index, _ in self._pending], unit))
        self._pending = []


def embed_unit(ctx: Context, encoder: str, texts: Sequence[str]) -> FloatArray:
    """Return unit vectors of ``texts``, float32 [n, d]; zero vectors stay zero.

    Raises:
        ModelError: if a vector contains NaN or infinity.
    """
    vectors = np.asarray(ctx.model(encoder).embed(texts), dtype=np.float64)
    if not np.isfinite(vectors).all():
        bad = texts[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise ModelError(
            f"model {encoder!r}: the vector of {bad[:60]!r} contains NaN or infinity; name another encoder"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def embedded_text(sample: Sample) -> str:
    """Return the text that is embedded by default: query and response."""
    return f"{sample.query}\n{sample.response}"


def nearest(
    vectors: FloatArray,
    k: int,
    voters: npt.NDArray[np.bool_] | None = None,
    exact_up_to: int = EXACT_UP_TO,
) -> tuple[FloatArray, IntArray]:
    """Find the ``k`` most similar other rows of ``vectors`` [n, d] for each row.

    Args:
        voters: [n]; rows that may be neighbours, all by default.
        exact_up_to: up to this number of voters the search is exact; above it an IVF index probes the 32 nearest cells.

    Returns:
        Similarities [n, k] and row indices [n, k], nearest first; -inf and -1 if there are fewer than ``k``.
    """
    import faiss

    n = len(vectors)
    places = np.arange(n) if voters is None else np.flatnonzero(voters)
    similarity = np.full((n, k), -np.inf, dtype=np.float32)
    near = np.full((n, k), -1, dtype=np.int64)
    m = min(k + 1, len(places))  # + 1: the search returns the row itself
    if not m:
        return similarity, near
    base = vectors if len(places) == n else np.ascontiguousarray(vectors[places])
    search = _search(faiss, base, exact_up_to)
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores, indices = search(vectors[rows], m)
        owner = np.where(indices >= 0, places[indices], -1)
        own = np.arange(n)[rows, None] == owner
        # Move the row itself behind its neighbours.
        order = np.argsort(own | (owner < 0), axis=1, kind="stable")[:, :k]
        neighbours = np.take_along_axis(owner, order, axis=1)
        excluded = np.take_along_axis(own, order, axis=1) | (neighbours < 0)
        width = neighbours.shape[1]
        near[rows, :width] = np.where(excluded, -1, neighbours)
        similarity[rows, :width] = np.where(
            excluded, -np.inf, np.take_along_axis(scores, order, axis=1)
        )
    return similarity, near


def _search(faiss: Any, base: FloatArray, exact_up_to: int) -> Any:
    if len(base) <= exact_up_to:
        return lambda rows, m: faiss.knn(rows, base, m, metric=faiss.METRIC_INNER_PRODUCT)
    cells = max(1, min(round(4 * math.sqrt(len(base))), len(base) // 40))
    index = faiss.index_factory(base.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    # A fixed subsample is enough to train the cells.
    index.train(base[:: max(1, len(base) // (40 * cells))])
    index.add(base)
    index.nprobe = min(_PROBES, cells)
    return index.search
