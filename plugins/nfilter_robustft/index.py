"""Nearest neighbour index by cosine similarity (RobustFT, Eq. 4), stored as arrays of a stage's state.

Up to ``threshold`` vectors the search is exact. Above, an HNSW graph proposes candidates, whose similarities are exact.
A result does not depend on the other queries of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
        faiss = faiss_module()
        graph = faiss.IndexHNSWFlat(rows.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
        with one_thread():
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
        faiss = faiss_module()
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
        rows = checked_queries(queries, k, self.vectors.shape)
        return ranked(
            len(rows),
            k,
            len(self.vectors),
            lambda pending, m: self._candidates(rows[pending], m),
            lambda pending, near: self._similarity(rows[pending], near),
            lambda near: near,
            widen=self.graph is None,
        )

    def _candidates(self, queries: FloatArray, m: int) -> tuple[FloatArray, IntArray]:
        faiss = faiss_module()
        if self.graph is None:
            scores, near = faiss.knn(queries, self.vectors, m, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            parameters = faiss.SearchParametersHNSW(efSearch=max(_EF_SEARCH, 2 * m))
            scores, near = self.graph.search(queries, m, params=parameters)
        return scores, near.astype(np.int64)

    def _similarity(self, queries: FloatArray, near: IntArray) -> FloatArray:
        return similarity_of(queries, near, lambda rows: self.vectors[rows])


def checked_queries(queries: npt.ArrayLike, k: int, shape: tuple[int, ...]) -> FloatArray:
    """Return queries of length 1, float32 [q, d], for the ``k`` nearest of ``shape`` vectors [n, d].

    Raises:
        ValueError: If ``k`` < 1, or the dimensions differ.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    rows = normalise(queries)
    if shape[0] and len(rows) and rows.shape[1] != shape[1]:
        raise ValueError(f"queries have {rows.shape[1]} dimensions, the index {shape[1]}")
    return rows


def ranked(
    count: int,
    k: int,
    most: int,
    candidates: Callable[[IntArray, int], tuple[FloatArray, IntArray]],
    similarity: Callable[[IntArray, IntArray], FloatArray],
    rows_of: Callable[[IntArray], IntArray],
    *,
    widen: bool,
) -> tuple[FloatArray, IntArray]:
    """Return similarities [count, k] and rows of the nearest vectors, as ``Index.search``.

    Args:
        count: The number of queries.
        k: Neighbours per query.
        most: The number of vectors.
        candidates: Returns, for queries by number and m, approximate similarities [., m] in descending order, and places; -inf and -1
            where there are fewer.
        similarity: Returns the similarities of queries by number to places [., m], independent of the batch.
        rows_of: Returns the rows of places; equal similarities are in order of row.
        widen: Whether to ask for more candidates where one beyond them may tie with rank k.
    """
    similarities = np.full((count, k), -np.inf, dtype=np.float32)
    positions = np.full((count, k), -1, dtype=np.int64)
    if not most:
        return similarities, positions
    pending = np.arange(count)
    m = min(most, k + _SLACK)
    while len(pending):
        approximate, near = candidates(pending, m)
        exact, rows = similarity(pending, near), rows_of(near)
        order = np.lexsort((rows, -exact), axis=1)[:, :k]
        width = order.shape[1]
        similarities[pending, :width] = np.take_along_axis(exact, order, axis=1)
        positions[pending, :width] = np.take_along_axis(rows, order, axis=1)
        if m == most or not widen:
            break
        last = approximate[:, -1]
        # A row beyond the candidates may tie with rank k: search with more candidates.
        undecided = np.isfinite(last) & (similarities[pending, k - 1] <= last + _EPSILON)
        pending = pending[undecided]
        m = min(most, 4 * m)
    positions[np.isneginf(similarities)] = -1
    return similarities, positions


def similarity_of(
    queries: FloatArray, near: IntArray, vectors_of: Callable[[IntArray], FloatArray]
) -> FloatArray:
    """Return the similarities [q, m] of ``queries`` [q, d] to rows, independent of the batch; -inf where ``near`` [q, m] is -1.

    ``vectors_of`` returns the vectors [..., d] of rows.
    """
    result = np.empty(near.shape, dtype=np.float32)
    columns = max(1, min(near.shape[1], _BLOCK // max(1, queries.shape[1])))
    rows = max(1, _BLOCK // (columns * max(1, queries.shape[1])))
    for top in range(0, len(queries), rows):
        for left in range(0, near.shape[1], columns):
            block = (slice(top, top + rows), slice(left, left + columns))
            vectors = vectors_of(near[block]).astype(np.float64)
            # Not a matrix product, whose rounding depends on its shape.
            result[block] = (vectors * queries[block[0], None, :]).sum(axis=-1)
    result[near < 0] = -np.inf
    return result


def search(
    arrays: Mapping[str, npt.NDArray[Any]], queries: npt.ArrayLike, k: int
) -> tuple[FloatArray, IntArray]:
    """Open ``arrays`` and search them once; see ``Index.search``."""
    return Index.open(arrays).search(queries, k)


def faiss_module() -> Any:
    """Import FAISS."""
    import faiss

    return faiss


@contextmanager
def one_thread() -> Iterator[None]:
    """Run FAISS on one thread in the block: its results then depend on the seed alone."""
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
