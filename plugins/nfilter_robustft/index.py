"""Nearest neighbours by cosine similarity (RobustFT, Eq. 4), as arrays that a stage's state can hold.

Up to ``threshold`` vectors the search is exact. Past it a navigable small-world graph (HNSW) proposes
candidates; their similarities are exact all the same. A result never depends on which other queries came along.
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

_LINKS = 32  # HNSW: edges a node
_EF_CONSTRUCTION = 200
_EF_SEARCH = 128
_SLACK = 8  # candidates asked for beyond k, for ties at the cut
_EPSILON = 4e-6  # bounds the float32 error of a similarity that FAISS reports
_BLOCK = 1 << 22  # elements scored in float64 at a time (32 MiB)


def normalise(vectors: npt.ArrayLike) -> FloatArray:
    """The rows of ``vectors`` [n, d] divided by their lengths, as float32; a row of zeros stays one.

    Raises ``ValueError`` where a row holds NaN or infinity.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"vectors have shape [n, d], not {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"vector {bad} holds NaN or infinity")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def build(vectors: npt.ArrayLike, threshold: int = THRESHOLD) -> dict[str, npt.NDArray[Any]]:
    """An index over ``vectors`` [n, d], as arrays for ``State.arrays``.

    ``vectors``: the normalised rows, float32 [n, d]. ``graph``: the serialised HNSW graph without its vectors,
    uint8, only where n > ``threshold``. The graph is built on one thread, so that it is the same every time.
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
    """An index opened for searching. Open it once for many chunks: a graph takes time to read."""

    vectors: FloatArray
    graph: Any = None
    storage: Any = None  # the graph points at it without owning it

    @classmethod
    def open(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Index:
        """Open what ``build`` returned, memory-mapped or not."""
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
        """The ``k`` most similar rows to each of ``queries`` [q, d].

        Returns similarities, float32 [q, k], in descending order, and positions, int64 [q, k]. Rows of equal
        similarity come in order of position. Where there are fewer than ``k`` rows: -inf and -1.
        """
        if k < 1:
            raise ValueError(f"k is at least 1, not {k}")
        wanted = normalise(queries)
        found = np.full((len(wanted), k), -np.inf, dtype=np.float32)
        positions = np.full((len(wanted), k), -1, dtype=np.int64)
        if not len(self.vectors) or not len(wanted):
            return found, positions
        if wanted.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"queries have {wanted.shape[1]} dimensions, the index {self.vectors.shape[1]}"
            )
        open_rows = np.arange(len(wanted))
        m = min(len(self.vectors), k + _SLACK)
        while len(open_rows):
            reported, near = self._candidates(wanted[open_rows], m)
            exact = self._similarity(wanted[open_rows], near)
            order = np.lexsort((near, -exact), axis=1)[:, :k]
            width = order.shape[1]
            found[open_rows, :width] = np.take_along_axis(exact, order, axis=1)
            positions[open_rows, :width] = np.take_along_axis(near, order, axis=1)
            if m == len(self.vectors) or self.graph is not None:
                break
            # A row that was not proposed could still tie with the last one kept: look further.
            unsure = found[open_rows, k - 1] <= reported[:, -1] + _EPSILON
            open_rows = open_rows[unsure]
            m = min(len(self.vectors), 4 * m)
        positions[np.isneginf(found)] = -1
        return found, positions

    def _candidates(self, queries: FloatArray, m: int) -> tuple[FloatArray, IntArray]:
        faiss = _faiss()
        if self.graph is None:
            reported, near = faiss.knn(queries, self.vectors, m, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            parameters = faiss.SearchParametersHNSW(efSearch=max(_EF_SEARCH, 2 * m))
            reported, near = self.graph.search(queries, m, params=parameters)
        return reported, near.astype(np.int64)

    def _similarity(self, queries: FloatArray, near: IntArray) -> FloatArray:
        """Similarities [q, m] that depend on the two vectors alone; -inf where ``near`` is -1."""
        result = np.empty(near.shape, dtype=np.float32)
        columns = max(1, min(near.shape[1], _BLOCK // max(1, queries.shape[1])))
        rows = max(1, _BLOCK // (columns * max(1, queries.shape[1])))
        for top in range(0, len(queries), rows):
            for left in range(0, near.shape[1], columns):
                block = (slice(top, top + rows), slice(left, left + columns))
                vectors = self.vectors[near[block]].astype(np.float64)
                # Row by row, unlike a matrix product, whose last digits depend on its shape.
                result[block] = (vectors * queries[block[0], None, :]).sum(axis=-1)
        result[near < 0] = -np.inf
        return result


def search(
    arrays: Mapping[str, npt.NDArray[Any]], queries: npt.ArrayLike, k: int
) -> tuple[FloatArray, IntArray]:
    """Open ``arrays`` and search once; see ``Index.search``."""
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
