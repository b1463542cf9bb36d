"""Nearest neighbour index by cosine similarity (RobustFT, Eq. 4), stored as arrays of a stage's state.

Up to ``threshold`` vectors the search is exact. Above, an HNSW graph proposes candidates, whose similarities are exact.
A result does not depend on the other queries of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import FloatArray, IntArray

THRESHOLD = 50_000

_LINKS = 32  # HNSW: edges per node
_EF_CONSTRUCTION = 200
_EF_SEARCH = 128
_SLACK = 8  # candidates beyond k, for ties at rank k
_EPSILON = 4e-6  # bounds the float32 error of a similarity that FAISS reports
_BLOCK = 1 << 22  # elements scored in float64 at a time (32 MiB)


def normalise(vectors: npt.ArrayLike) -> FloatArray:
    """Scale the rows of ``vectors`` [n, d] to length 1, as float32; zero rows stay zero.

    Raises:
        ValueError: If a row contains NaN or infinity.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"vectors must have shape [n, d], not {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"vector {bad} contains NaN or infinity")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def build(vectors: npt.ArrayLike, threshold: int = THRESHOLD) -> dict[str, npt.NDArray[Any]]:
    """Build an index over ``vectors`` [n, d] as arrays for ``State.arrays``.

    The arrays are ``vectors``, the normalised rows, float32 [n, d], and if n > ``threshold``, ``graph``, the serialised
    HNSW graph without its vectors, uint8. The graph is built on one thread, for reproducibility.
    """
    rows = normalise(vectors)
    arrays: dict[str, npt.NDArray[Any]] = {"vectors": rows}
    if len(rows) > threshold:
        faiss = _faiss()
        graph = faiss.IndexHNSWFlat(rows.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
        with _one_thread():
            graph.add(rows)
        arrays["graph"] = faiss.serialize_index(graph, faiss.IO_FLAG_SKIP_STORAGE)
    return arrays


@dataclass(frozen=True, slots=True)
class Index:
    """An open index. Reuse it for several chunks, because a graph takes time to deserialise."""

    vectors: FloatArray
    graph: Any = None
    storage: Any = None  # referenced but not owned by the graph

    @classmethod
    def open(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Index:
        """Open the arrays from ``build``, memory-mapped or not."""
        vectors = np.ascontiguousarray(arrays["vectors"], dtype=np.float32)
        if "graph" not in arrays:
            return cls(vectors)
        faiss = _faiss()
        graph = faiss.deserialize_index(
            np.ascontiguousarray(arrays["graph"], dtype=np.uint8), faiss.IO_FLAG_SKIP_STORAGE
        )
        storage = faiss.IndexFlatIP(vectors.shape[1])
        storage.add(vectors)
        graph.storage = storage
        graph.own_fields = False
        return cls(vectors, graph, storage)

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[FloatArray, IntArray]:
        """Return the ``k`` most similar rows to each of ``queries`` [q, d].

        Returns:
            Similarities float32 [q, k] in descending order, and row indices int64 [q, k]; equal similarities are in
            order of index. With fewer than ``k`` rows, the rest is -inf and -1.

        Raises:
            ValueError: If ``k`` < 1, or the dimensions differ from the index.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        rows = normalise(queries)
        similarities = np.full((len(rows), k), -np.inf, dtype=np.float32)
        positions = np.full((len(rows), k), -1, dtype=np.int64)
        if not len(self.vectors) or not len(rows):
            return similarities, positions
        if rows.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"queries have {rows.shape[1]} dimensions, the index {self.vectors.shape[1]}"
            )
        pending = np.arange(len(rows))
        m = min(len(self.vectors), k + _SLACK)
        while len(pending):
            approximate, near = self._candidates(rows[pending], m)
            exact = self._similarity(rows[pending], near)
            order = np.lexsort((near, -exact), axis=1)[:, :k]
            width = order.shape[1]
            similarities[pending, :width] = np.take_along_axis(exact, order, axis=1)
            positions[pending, :width] = np.take_along_axis(near, order, axis=1)
            if m == len(self.vectors) or self.graph is not None:
                break
            # A row beyond the candidates may tie with rank k: search with more candidates.
            undecided = similarities[pending, k - 1] <= approximate[:, -1] + _EPSILON
            pending = pending[undecided]
            m = min(len(self.vectors), 4 * m)
        positions[np.isneginf(similarities)] = -1
        return similarities, positions

    def _candidates(self, queries: FloatArray, m: int) -> tuple[FloatArray, IntArray]:
        faiss = _faiss()
        if self.graph is None:
            scores, near = faiss.knn(queries, self.vectors, m, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            parameters = faiss.SearchParametersHNSW(efSearch=max(_EF_SEARCH, 2 * m))
            scores, near = self.graph.search(queries, m, params=parameters)
        return scores, near.astype(np.int64)

    def _similarity(self, queries: FloatArray, near: IntArray) -> FloatArray:
        """Return similarities [q, m], independent of the batch; -inf where ``near`` is -1."""
        result = np.empty(near.shape, dtype=np.float32)
        columns = max(1, min(near.shape[1], _BLOCK // max(1, queries.shape[1])))
        rows = max(1, _BLOCK // (columns * max(1, queries.shape[1])))
        for top in range(0, len(queries), rows):
            for left in range(0, near.shape[1], columns):
                block = (slice(top, top + rows), slice(left, left + columns))
                vectors = self.vectors[near[block]].astype(np.float64)
                # Not a matrix product, whose rounding depends on its shape.
                result[block] = (vectors * queries[block[0], None, :]).sum(axis=-1)
        result[near < 0] = -np.inf
        return result


def search(
    arrays: Mapping[str, npt.NDArray[Any]], queries: npt.ArrayLike, k: int
) -> tuple[FloatArray, IntArray]:
    """Open ``arrays`` and search them once; see ``Index.search``."""
    return Index.open(arrays).search(queries, k)


def _faiss() -> Any:
    import faiss

    return faiss


@contextmanager
def _one_thread() -> Iterator[None]:
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
