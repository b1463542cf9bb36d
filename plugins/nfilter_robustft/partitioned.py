"""An index of vectors in lists around centroids (IVF), stored as arrays of a stage's state, for more vectors than memory holds.

A search reads the lists of the centroids that are nearest to a query, one list at a time, so that memory is that of one list. A row
in another list is not found: ``measured`` compares with the exact answer. With codes (PQ) a list has a few bytes per vector, and
similarities are those of the decoded vectors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import JSON, FloatArray, IntArray, RecipeError, StageConfig
from nfilter_robustft.index import (
    Index,
    build,
    checked_queries,
    faiss_module,
    normalise,
    one_thread,
    ranked,
    similarity_of,
)

LEAST: Final = 1000
"""Vectors below which ``ivf`` is exact: one list would have a handful of them."""

_MOST_LISTS: Final = 65_536
_PER_LIST: Final = 64  # vectors per list that the centroids are learned from
_CODE_SAMPLE: Final = 16_384  # vectors that the codes are learned from
_ROUNDS: Final = 10  # of k-means
_BLOCK: Final = 8192  # vectors that are assigned, written or compared at a time


class IndexSettings(StageConfig):
    """How neighbours are searched. ``ivf`` is for more vectors than memory holds, and its error is measured."""

    use: Literal["auto", "exact", "ivf"] = Field(
        default="auto",
        description="auto: exact up to a number of vectors, an HNSW graph in memory above it; exact: compare all; ivf: lists around centroids, on disk.",
    )
    lists: Annotated[int, Field(ge=1, le=_MOST_LISTS)] | Literal["auto"] = Field(
        default="auto",
        description="ivf: number of lists; auto is twice the square root of the number of vectors.",
    )
    probes: int = Field(
        default=32, ge=1, le=4096, description="ivf: lists that are searched per query."
    )
    code: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="ivf: bytes per vector, a divisor of its number of dimensions; null stores float32.",
    )
    compared: int = Field(
        default=500,
        ge=0,
        le=10_000,
        description="ivf: queries whose neighbours are compared with the exact ones.",
    )


class Vectors(Protocol):
    """Vectors [n, d] by row: an array, or a file of which rows are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class ChosenVectors:
    """Some rows of ``vectors``, in the order of ``rows`` int64 [n]."""

    vectors: Vectors
    rows: IntArray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, rows: Any) -> FloatArray:
        """Return rows by their index or slice in the choice."""
        return self.vectors[self.rows[rows]]


class Searchable(Protocol):
    """An open index."""

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[FloatArray, IntArray]: ...


def build_index(
    vectors: Vectors, settings: IndexSettings, seed: int, threshold: int
) -> dict[str, npt.NDArray[Any]]:
    """Build the index that ``settings`` choose over ``vectors`` of length 1, as arrays for ``State.arrays``.

    The arrays of ``ivf`` are ``centroids`` float32 [c, d], ``list_ends`` and ``list_rows`` int64, which give the rows of each list,
    ``list_probes`` [1], and in the order of ``list_rows`` either ``vectors`` float32 [n, d], in a temporary file, or ``list_codes``
    uint8 [n, m] with ``list_books`` float32 [m, 256, d / m]. They depend on the vectors, the settings and the seed, on one thread.

    Raises:
        RecipeError: if ``code`` does not divide the number of dimensions.
    """
    if settings.use != "ivf" or len(vectors) < LEAST:
        return build(vectors[:], threshold if settings.use == "auto" else len(vectors))
    rng = np.random.default_rng(seed)
    count = len(vectors)
    wanted = round(2 * count**0.5) if settings.lists == "auto" else settings.lists
    lists = min(_MOST_LISTS, count, wanted)
    sample = vectors[_drawn(rng, count, _PER_LIST * lists)]
    size = sample.shape[1]
    code = settings.code
    if code is not None and size % code:
        divisors = [n for n in range(1, min(size, 512) + 1) if size % n == 0]
        near = min(divisors, key=lambda n: abs(n - code))
        raise RecipeError(
            f"index: code: {code} bytes do not divide the {size} dimensions of the encoder; write code: {near}"
        )
    with one_thread():
        centroids = _centroids(sample, lists, int(rng.integers(2**31)))
        assigned = _assigned(vectors, centroids)
        order = np.argsort(assigned, kind="stable").astype(np.int64)
        arrays: dict[str, npt.NDArray[Any]] = {
            "centroids": centroids,
            "list_ends": np.cumsum(np.bincount(assigned, minlength=lists)).astype(np.int64),
            "list_rows": order,
            "list_probes": np.array([settings.probes], dtype=np.int64),
        }
        if code is None:
            blocks = (vectors[order[at : at + _BLOCK]] for at in range(0, count, _BLOCK))
            arrays["vectors"] = _written(blocks, count, size, np.float32)
        else:
            rows = _drawn(rng, count, _CODE_SAMPLE)
            learned_from = vectors[rows] - centroids[assigned[rows]]
            quantiser = _quantiser(learned_from, code, int(rng.integers(2**31)))
            codes = _codes(vectors, order, centroids, assigned, quantiser)
            arrays["list_codes"] = _written(codes, count, code, np.uint8)
            books = faiss_module().vector_to_array(quantiser.centroids)
            arrays["list_books"] = books.reshape(code, 256, size // code).copy()
    return arrays


def open_index(arrays: Mapping[str, npt.NDArray[Any]]) -> Searchable:
    """Open the arrays from ``build_index``, memory-mapped or not."""
    return PartitionedIndex.open(arrays) if "centroids" in arrays else Index.open(arrays)


@dataclass(frozen=True, slots=True)
class PartitionedIndex:
    """An open index of lists. A result does not depend on the other queries of the batch."""

    centroids: FloatArray
    coarse: Index
    ends: IntArray
    rows: IntArray
    probes: int
    vectors: FloatArray | None
    codes: npt.NDArray[np.uint8] | None
    books: FloatArray | None

    @classmethod
    def open(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> PartitionedIndex:
        """Open the arrays from ``build_index``."""
        centroids = np.asarray(arrays["centroids"], dtype=np.float32)
        return cls(
            centroids,
            Index.open(build(centroids, len(centroids))),
            np.asarray(arrays["list_ends"]),
            arrays["list_rows"],
            int(arrays["list_probes"][0]),
            arrays.get("vectors"),
            arrays.get("list_codes"),
            np.asarray(arrays["list_books"]) if "list_books" in arrays else None,
        )

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[FloatArray, IntArray]:
        """Return the ``k`` most similar rows to each of ``queries`` [q, d] in the lists of the nearest centroids, as ``Index.search``.

        Raises:
            ValueError: If ``k`` < 1, or the dimensions differ from the index.
        """
        rows = checked_queries(queries, k, (len(self.rows), self.centroids.shape[1]))
        _, lists = self.coarse.search(rows, self.probes)
        return ranked(
            len(rows),
            k,
            len(self.rows),
            lambda pending, m: self._candidates(rows[pending], lists[pending], m),
            lambda pending, near: similarity_of(rows[pending], near, self._vectors_at),
            lambda near: np.asarray(self.rows[near]),
            widen=True,
        )

    def _candidates(
        self, queries: FloatArray, lists: IntArray, m: int
    ) -> tuple[FloatArray, IntArray]:
        """Return the ``m`` most similar places of each query by float32 products, list by list."""
        scores = np.full((len(queries), m), -np.inf, dtype=np.float32)
        places = np.full((len(queries), m), -1, dtype=np.int64)
        for number in np.unique(lists[lists >= 0]):
            asked = np.flatnonzero((lists == number).any(axis=1))
            start = int(self.ends[number - 1]) if number else 0
            members = np.arange(start, int(self.ends[number]))
            if not len(members):
                continue
            found = queries[asked] @ self._vectors_at(members).T
            both = np.concatenate([scores[asked], found], axis=1)
            where = np.concatenate([places[asked], np.broadcast_to(members, found.shape)], axis=1)
            best = np.argpartition(-both, m - 1, axis=1)[:, :m]
            scores[asked] = np.take_along_axis(both, best, axis=1)
            places[asked] = np.take_along_axis(where, best, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)

    def _vectors_at(self, places: IntArray) -> FloatArray:
        """Return the vectors of length 1 at places, float32 [..., d]."""
        if self.vectors is not None:
            return np.asarray(self.vectors[places])
        assert self.codes is not None
        assert self.books is not None
        flat = places.reshape(-1)
        codes = np.asarray(self.codes[flat])
        parts = self.books[np.arange(codes.shape[1]), codes]
        own = self.centroids[
            np.searchsorted(self.ends, flat, side="right").clip(max=len(self.ends) - 1)
        ]
        decoded = normalise(own + parts.reshape(len(flat), -1))
        return decoded.reshape(*places.shape, -1)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The ``k`` nearest rows of some ``queries``, by an index and by comparing all vectors.

    Attributes:
        queries: The rows that were asked for, int64 [q].
        found: Similarities and rows [q, k] by the index.
        exact: Similarities and rows [q, k] by comparing all vectors.
    """

    queries: IntArray
    found: tuple[FloatArray, IntArray]
    exact: tuple[FloatArray, IntArray]

    def difference(self, k: int) -> Difference:
        """Compare the ``k`` nearest other rows of each query; a changed result is another set of them."""
        pairs = [
            (set(one[one != row][:k]) - {-1}, set(other[other != row][:k]) - {-1})
            for row, one, other in zip(self.queries, self.found[1], self.exact[1], strict=True)
        ]
        total = sum(len(exact) for _, exact in pairs)
        hits = sum(len(found & exact) for found, exact in pairs)
        changed = sum(found != exact for found, exact in pairs)
        return Difference(hits / total if total else 1.0, changed / max(1, len(pairs)))


@dataclass(frozen=True, slots=True)
class Difference:
    """What an index changes: ``recall`` is the share of the exact neighbours that it found, ``changed`` the share of changed results."""

    recall: float
    changed: float


def index_figures(
    arrays: Mapping[str, npt.NDArray[Any]], settings: IndexSettings
) -> dict[str, JSON]:
    """Return what a report says of an index of lists; nothing for another index."""
    if "centroids" not in arrays:
        return {}
    return {
        "use": settings.use,
        "vectors": len(arrays["list_rows"]),
        "lists": len(arrays["centroids"]),
        "probes": settings.probes,
        "code": settings.code,
    }


def measured(
    arrays: Mapping[str, npt.NDArray[Any]], vectors: Vectors, k: int, compared: int, seed: int
) -> Nearest | None:
    """Compare an index of lists with the exact answer for a seeded sample of its own ``vectors``; None for another index."""
    if "centroids" not in arrays or not compared:
        return None
    rows = _drawn(np.random.default_rng(seed), len(vectors), compared)
    asked = vectors[rows]
    return Nearest(rows, open_index(arrays).search(asked, k), exact_neighbours(vectors, asked, k))


def exact_neighbours(vectors: Vectors, queries: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    """Return what an exact ``Index.search`` does, from a part of the vectors at a time."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK])
        scores, near = Index(block).search(queries, k)
        both = np.concatenate([best, scores], axis=1)
        where = np.concatenate([rows, np.where(near < 0, -1, near + start)], axis=1)
        order = np.lexsort((where, -both), axis=1)[:, :k]
        best = np.take_along_axis(both, order, axis=1)
        rows = np.take_along_axis(where, order, axis=1)
    return best, rows


def _drawn(rng: np.random.Generator, count: int, size: int) -> IntArray:
    """Return ``size`` of ``count`` rows without replacement, in order."""
    if size >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(rng.choice(count, size, replace=False)).astype(np.int64)


def _centroids(sample: FloatArray, lists: int, seed: int) -> FloatArray:
    """Return spherical k-means centroids [lists, d]."""
    means = faiss_module().Kmeans(
        sample.shape[1], lists, niter=_ROUNDS, seed=seed, spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=_PER_LIST,
    )  # fmt: skip
    means.train(sample)
    return np.asarray(means.centroids, dtype=np.float32)


def _assigned(vectors: Vectors, centroids: FloatArray) -> npt.NDArray[np.int32]:
    """Return the nearest centroid of each vector."""
    faiss = faiss_module()
    out = np.empty(len(vectors), dtype=np.int32)
    for start in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[start : start + _BLOCK], dtype=np.float32)
        _, near = faiss.knn(block, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)
        out[start : start + _BLOCK] = near[:, 0]
    return out


def _written(
    blocks: Iterable[npt.NDArray[Any]], count: int, size: int, kind: Any
) -> npt.NDArray[Any]:
    """Return blocks as one array [count, size] in a temporary file, which goes when the array does."""
    with tempfile.TemporaryFile(prefix="nfilter-lists-") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=kind).tobytes())
        file.flush()
        return np.memmap(file, dtype=kind, mode="r", shape=(count, size))


def _quantiser(sample: FloatArray, code: int, seed: int) -> Any:
    """Return a product quantiser of ``code`` bytes, learned from the differences to centroids."""
    quantiser = faiss_module().ProductQuantizer(sample.shape[1], code, 8)
    quantiser.cp.seed = seed
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(np.ascontiguousarray(sample, dtype=np.float32))
    return quantiser


def _codes(
    vectors: Vectors,
    order: IntArray,
    centroids: FloatArray,
    assigned: npt.NDArray[np.int32],
    quantiser: Any,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the codes of the vectors in the order of the lists, uint8 [., m]."""
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        apart = np.ascontiguousarray(vectors[rows] - centroids[assigned[rows]], dtype=np.float32)
        yield quantiser.compute_codes(apart)
