"""The index compared with brute force: order, ties, batches, sizes and storage."""

import numpy as np
import pytest

from nfilter_robustft.index import Index, build, normalise, search


def brute(vectors, queries, k):
    """Return similarities and positions by (similarity descending, position ascending), in float64."""
    a, b = (np.asarray(m, dtype=np.float64) for m in (normalise(queries), normalise(vectors)))
    similarity = np.float32((a[:, None, :] * b[None, :, :]).sum(-1))
    rows = [sorted(range(len(b)), key=lambda j: (-row[j], j))[:k] for row in similarity]
    return np.array([[similarity[i, j] for j in row] for i, row in enumerate(rows)]), np.array(rows)


def test_flat_search_is_brute_force():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(300, 24)), rng.normal(size=(17, 24)) * 40
    found, positions = search(build(vectors), queries, 11)
    expected, order = brute(vectors, queries, 11)
    assert found.dtype == np.float32
    assert positions.dtype == np.int64
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("copies", [3, 40, 200])
def test_ties_are_ordered_by_position(copies):
    # More duplicates than candidates of the first search, scattered among other vectors.
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(400, 24)).astype(np.float32)
    query = rng.normal(size=(1, 24))
    where = np.sort(rng.choice(400, copies, replace=False))
    vectors[where] = query
    found, positions = search(build(vectors), query, 5)
    expected = where[:5]
    np.testing.assert_array_equal(positions[0, : len(expected)], expected)
    assert np.all(found[0, : len(expected)] == found[0, 0])


def test_ties_beyond_the_first_candidates_are_searched(monkeypatch):
    # A search that proposes the last of equal rows first, so that ties continue beyond its candidates.
    def last_first(self, queries, m):
        similarity = np.asarray(queries @ self.vectors.T, dtype=np.float32)
        positions = np.broadcast_to(np.arange(len(self.vectors)), similarity.shape)
        order = np.lexsort((-positions, -similarity), axis=1)[:, :m]
        return np.take_along_axis(similarity, order, axis=1), order

    monkeypatch.setattr(Index, "_candidates", last_first)
    vectors = np.eye(4)[np.arange(200) % 4]
    assert search(build(vectors), vectors[:2], 3)[1].tolist() == [[0, 4, 8], [1, 5, 9]]


def test_result_does_not_depend_on_the_batch():
    rng = np.random.default_rng(2)
    vectors, queries = rng.normal(size=(500, 48)), rng.normal(size=(64, 48))
    arrays = build(vectors)
    together = search(arrays, queries, 7)
    for i in (0, 31, 63):
        alone = search(arrays, queries[i : i + 1], 7)
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        np.testing.assert_array_equal(alone[1][0], together[1][i])


def test_fewer_rows_than_k():
    found, positions = search(build([[1.0, 0.0], [0.0, 2.0]]), [[0.0, 1.0]], 4)
    np.testing.assert_array_equal(positions, [[1, 0, -1, -1]])
    np.testing.assert_array_equal(found, np.float32([[1, 0, -np.inf, -np.inf]]))


def test_empty_index_and_empty_queries():
    found, positions = search(build(np.zeros((0, 3))), [[1.0, 0, 0]], 2)
    assert positions.tolist() == [[-1, -1]]
    assert np.isneginf(found).all()
    assert search(build([[1.0, 0.0]]), np.zeros((0, 2)), 2)[1].shape == (0, 2)


def test_zero_vector_has_similarity_zero():
    found, positions = search(build([[0.0, 0.0], [3.0, 4.0]]), [[3.0, 4.0]], 2)
    assert positions.tolist() == [[1, 0]]
    np.testing.assert_allclose(found, [[1.0, 0.0]], atol=1e-6)


def test_graph_has_high_recall_and_is_reproducible():
    rng = np.random.default_rng(3)
    vectors, queries = rng.normal(size=(2000, 16)), rng.normal(size=(50, 16))
    arrays = build(vectors, threshold=1999)
    assert arrays["graph"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["graph"], build(vectors, threshold=1999)["graph"])

    assert "graph" not in build(vectors, threshold=2000)
    index = Index.open(arrays)
    found, positions = index.search(queries, 5)
    expected, order = brute(vectors, queries, 5)
    hits = [len(set(a) & set(b)) for a, b in zip(positions, order, strict=True)]
    assert sum(hits) / (50 * 5) > 0.97
    for i in np.flatnonzero(np.array(hits) == 5):
        np.testing.assert_array_equal(positions[i], order[i])
        np.testing.assert_allclose(found[i], expected[i], atol=1e-6)


def test_graph_round_trip_through_files(tmp_path):
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(300, 8))
    arrays = build(vectors, threshold=10)
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values, allow_pickle=False)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}
    index = Index.open(mapped)
    del arrays, mapped
    assert index.search(vectors[:20], 1)[1][:, 0].tolist() == list(range(20))


def test_number_of_threads_is_restored():
    faiss = pytest.importorskip("faiss")
    before = faiss.omp_get_max_threads()
    build(np.random.default_rng(0).normal(size=(50, 4)), threshold=10)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize(
    ("vectors", "words"),
    [([1.0, 2.0], "shape"), ([[1.0, float("nan")]], "vector 0 contains NaN")],
)
def test_invalid_vectors_raise(vectors, words):
    with pytest.raises(ValueError, match=words):
        build(vectors)


def test_invalid_queries_raise():
    arrays = build([[1.0, 0.0]])
    with pytest.raises(ValueError, match="3 dimensions, the index 2"):
        search(arrays, [[1.0, 0, 0]], 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        search(arrays, [[1.0, 0]], 0)
