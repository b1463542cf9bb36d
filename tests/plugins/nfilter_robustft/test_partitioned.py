"""The index of lists: exact where all lists are searched, its error measured, reproducible, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import Message, RecipeError, Sample, State
from nfilter.testing import FakeContext, FakeEncoder, FakeGenerator, check_sample_stage
from nfilter_robustft import partitioned
from nfilter_robustft.index import build, normalise, search
from nfilter_robustft.neighbors import Neighbors, NeighborsConfig
from nfilter_robustft.partitioned import (
    ChosenVectors,
    IndexSettings,
    Nearest,
    build_index,
    exact_neighbours,
    measured,
    open_index,
)
from nfilter_robustft.relabel import Relabel, RelabelConfig
from nfilter_robustft.statistics import similarity
from nfilter_robustft.vector_file import VectorFile

pytest.importorskip("faiss")
IVF = IndexSettings(use="ivf", lists=20, probes=4)
ALL = IndexSettings(use="ivf", lists=20, probes=20)


def clouds(n: int, d: int = 16, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, d))
    return normalise(centres[rng.integers(30, size=n)] + 0.4 * rng.normal(size=(n, d)))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioned, "LEAST", 100)
    monkeypatch.setattr(partitioned, "_BLOCK", 64)  # several blocks


def equal(one: Any, other: Any) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_with_all_lists_it_is_the_exact_search() -> None:
    vectors = clouds(600)
    vectors[40:60] = vectors[7]  # equal rows are in order of row
    arrays = build_index(vectors, ALL, 1, 50_000)
    assert sorted(arrays["list_rows"].tolist()) == list(range(600))
    assert arrays["list_ends"][-1] == 600
    expected = search(build(vectors), vectors[:50], 9)
    equal(open_index(arrays).search(vectors[:50], 9), expected)
    equal(exact_neighbours(vectors, vectors[:50], 9), expected)


def test_a_row_is_in_the_list_of_its_nearest_centroid() -> None:
    vectors = clouds(400)
    arrays = build_index(vectors, IVF, 1, 50_000)
    start = 0
    for number, end in enumerate(arrays["list_ends"]):
        rows = arrays["list_rows"][start:end]
        assert (vectors[rows] @ arrays["centroids"].T).argmax(axis=1).tolist() == [number] * len(rows)  # fmt: skip
        np.testing.assert_array_equal(arrays["vectors"][start:end], vectors[rows])
        start = end


@pytest.mark.parametrize("code", [None, 8])
def test_it_depends_on_the_seed_alone(code: int | None) -> None:
    vectors = clouds(600)
    settings = IVF.model_copy(update={"code": code})
    one, again, other = (build_index(vectors, settings, seed, 50_000) for seed in (1, 1, 2))
    assert {name: each.tobytes() for name, each in one.items()} == {
        name: each.tobytes() for name, each in again.items()
    }
    assert one["centroids"].tobytes() != other["centroids"].tobytes()


@pytest.mark.parametrize("code", [None, 8])
def test_a_result_does_not_depend_on_the_batch(code: int | None) -> None:
    vectors = clouds(600)
    vectors[100:180] = vectors[3]
    index = open_index(build_index(vectors, IVF.model_copy(update={"code": code}), 1, 50_000))
    similarities, rows = index.search(vectors[:64], 7)
    for i in (0, 3, 63):
        equal(index.search(vectors[i : i + 1], 7), (similarities[i : i + 1], rows[i : i + 1]))


def test_similarities_of_codes_are_those_of_the_decoded_vectors() -> None:
    vectors = clouds(600)
    arrays = build_index(vectors, ALL.model_copy(update={"code": 8}), 1, 50_000)
    assert "vectors" not in arrays
    assert (arrays["list_codes"].shape, arrays["list_books"].shape) == ((600, 8), (8, 256, 2))
    lists = np.repeat(np.arange(20), np.diff(arrays["list_ends"], prepend=0))
    decoded = np.empty_like(vectors)
    for place, row in enumerate(arrays["list_rows"]):
        codes = arrays["list_codes"][place]
        apart = np.concatenate(
            [arrays["list_books"][part, code] for part, code in enumerate(codes)]
        )
        decoded[row] = arrays["centroids"][lists[place]] + apart
    similarities, rows = open_index(arrays).search(vectors[:20], 5)
    expected, order = search(build(decoded), vectors[:20], 5)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)


def test_the_error_is_the_share_of_neighbours_and_results_that_differ() -> None:
    rows = np.array([0, 5])
    exact = (np.zeros((2, 4)), np.array([[0, 1, 2, 3], [5, 6, 7, 8]]))
    found = (np.zeros((2, 4)), np.array([[0, 1, 3, 9], [5, 7, 6, -1]]))
    error = Nearest(rows, found, exact).difference(2)
    assert error.recall == 0.75  # 1 of {1, 2}, and {6, 7} in another order
    assert error.changed == 0.5


def test_copies_of_a_query_are_no_voters_and_flags_are_those_of_the_votes() -> None:
    arrays = {
        "codes": np.array([0, 1, 1, 0, 0, 1]),
        "queries": np.array([7, 7, 8, 9, 10, 11], dtype=np.uint64),
    }
    rows = np.array([0, 3])
    # Row 0 has the copy 1. By the index its voters are 4 and 5, by all vectors 2 and 5.
    found = (
        np.array([[1.0, 1.0, 0.5, 0.4], [1.0, 0.9, 0.8, -np.inf]]),
        np.array([[0, 1, 4, 5], [3, 4, 2, -1]]),
    )
    exact = (
        np.array([[1.0, 1.0, 0.9, 0.4], [1.0, 0.9, 0.8, 0.1]]),
        np.array([[0, 1, 2, 5], [3, 4, 2, 5]]),
    )
    error = similarity.difference(Nearest(rows, found, exact), arrays, 2, 0.1)
    assert error.recall == 0.75  # 5 of {2, 5}, and {4, 2}
    assert (
        error.changed == 0.5
    )  # 2 votes for another answer than that of row 0, 4 does not; row 3 is not flagged
    same = similarity.difference(Nearest(rows, exact, exact), arrays, 2, 0.1)
    assert (same.recall, same.changed) == (1.0, 0.0)


def test_fewer_lists_find_fewer_neighbours() -> None:
    vectors = normalise(np.random.default_rng(1).normal(size=(2000, 8)))
    recalls = []
    for probes in (1, 4, 20):
        arrays = build_index(vectors, IVF.model_copy(update={"probes": probes}), 1, 50_000)
        nearest = measured(arrays, vectors, 11, 200, 5)
        assert nearest is not None
        np.testing.assert_array_equal(nearest.exact[1], search(build(vectors), vectors[nearest.queries], 11)[1])  # fmt: skip
        recalls.append(nearest.difference(10).recall)
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9 < recalls[1]
    assert recalls[2] == 1.0
    assert measured(build(vectors), vectors, 11, 200, 5) is None
    assert measured(arrays, vectors, 11, 0, 5) is None


def test_few_vectors_are_searched_exactly() -> None:
    vectors = clouds(99)
    assert set(build_index(vectors, IVF, 1, 50_000)) == {"vectors"}
    assert set(build_index(clouds(150), IndexSettings(), 1, 50_000)) == {"vectors"}
    assert set(build_index(clouds(150), IndexSettings(), 1, 149)) == {"vectors", "graph"}
    assert set(build_index(clouds(150), IndexSettings(use="exact"), 1, 149)) == {"vectors"}


def test_more_lists_than_vectors_and_more_probes_than_lists() -> None:
    vectors = clouds(120)
    settings = IndexSettings(use="ivf", lists=500, probes=900)
    arrays = build_index(vectors, settings, 1, 50_000)
    assert len(arrays["centroids"]) == 120
    equal(open_index(arrays).search(vectors[:9], 4), search(build(vectors), vectors[:9], 4))
    found, rows = open_index(build_index(vectors, IVF, 1, 50_000)).search(vectors[:3], 200)
    assert rows.shape == (3, 200)
    assert np.isneginf(found[rows == -1]).all()
    assert (rows == -1).any()


@pytest.mark.types("write code: «»")
def test_a_code_that_does_not_divide_the_dimensions() -> None:
    vectors = clouds(300)
    with pytest.raises(RecipeError, match="code: 5 bytes do not divide the 16 dimensions of the encoder; write code: 4"):  # fmt: skip
        build_index(vectors, IVF.model_copy(update={"code": 5}), 1, 50_000)
    assert build_index(vectors, IVF.model_copy(update={"code": 4}), 1, 50_000)["list_codes"].shape == (300, 4)  # fmt: skip


def test_vectors_in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    vectors = clouds(300)
    with VectorFile() as file:
        assert len(file) == 0
        for start in range(0, 300, 70):
            file.add(3 * vectors[start : start + 70])
        assert len(file) == 300
        np.testing.assert_allclose(file[:], vectors, atol=1e-7)
        np.testing.assert_array_equal(file[[5, 299, 5]], file[:][[5, 299, 5]])
        chosen = ChosenVectors(file, np.arange(0, 300, 3))
        np.testing.assert_array_equal(chosen[10:20], file[:][30:60:3])
        with pytest.raises(ValueError, match="NaN"):
            file.add([[float("nan")] * 16])
        in_file = build_index(chosen, IVF, 1, 50_000)
        equal(in_file.values(), build_index(file[:][::3], IVF, 1, 50_000).values())
        for name, each in in_file.items():
            np.save(tmp_path / f"{name}.npy", each, allow_pickle=False)
    stored = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")}
    assert set(stored) == set(in_file)
    equal(open_index(stored).search(vectors[:9], 3), open_index(in_file).search(vectors[:9], 3))


def rows_of(vectors: Any, labels: Any) -> tuple[list[Sample], FakeEncoder]:
    samples = [
        Sample(f"s{i}", (Message("user", f"row {i}"), Message("assistant", str(label))))
        for i, label in enumerate(labels)
    ]
    return samples, FakeEncoder(lambda text: vectors[int(text.split()[1])])


def voted(vectors: Any, labels: Any, **index: Any) -> tuple[list[Any], Any, FakeContext]:
    samples, encoder = rows_of(vectors, labels)
    ctx = FakeContext(models={"encoder": encoder}, answers="number")
    stage = Neighbors(NeighborsConfig(weighting="similarity", index=IndexSettings(**index)))
    state = stage.fit(iter(samples), ctx)
    return [s.notes["neighbors"] for s in stage.process(samples, state, ctx)], state, ctx


def test_neighbours_vote_by_lists_as_by_all_vectors() -> None:
    rng = np.random.default_rng(3)
    vectors = clouds(700)
    truth = (vectors[:, :2] > 0) @ [1, 2]
    labels = np.where(rng.random(700) < 0.3, rng.integers(4, size=700), truth)
    exact, state, _ = voted(vectors, labels)
    assert "index" not in state.values["report"]["neighbors"]
    whole, state, _ = voted(vectors, labels, use="ivf", lists=20, probes=20)
    assert whole == exact
    figures = state.values["report"]["neighbors"]["index"]
    assert figures == {
        "use": "ivf", "vectors": 700, "lists": 20, "probes": 20, "code": None, "compared": 500,
        "recall": 1.0, "changed": 0.0,
    }  # fmt: skip
    few, state, ctx = voted(vectors, labels, use="ivf", lists=20, probes=1, compared=700)
    figures = state.values["report"]["neighbors"]["index"]
    assert 0.3 < figures["recall"] < 1
    # All rows were compared, so the share of changed flags is that of the notes, against those of a search of all lists.
    all_lists = State(state.values, {**state.arrays, "list_probes": np.array([20])})
    samples, _ = rows_of(vectors, labels)
    notes = [s.notes["neighbors"] for s in Neighbors(NeighborsConfig()).process(samples, all_lists, ctx)]  # fmt: skip
    flags = [
        [note["answer"] not in (None, str(label)) for note, label in zip(each, labels, strict=True)]
        for each in (notes, few)
    ]
    assert figures["changed"] == pytest.approx(np.mean(np.array(flags[0]) != np.array(flags[1])))
    assert figures["changed"] > 0
    (line,) = [text for _, text in ctx.log.lines if text.startswith("index of 20 lists")]
    assert f"{figures['changed']:.1%} of flags differ" in line


def test_a_learned_metric_reads_the_vectors_from_the_file() -> None:
    rng = np.random.default_rng(3)
    vectors = clouds(400)
    truth = (vectors[:, 0] > 0).astype(int)
    labels = np.where(rng.random(400) < 0.2, 1 - truth, truth)
    samples, encoder = rows_of(vectors, labels)
    notes = []
    for index in (IndexSettings(), IVF):
        ctx = FakeContext(models={"encoder": encoder}, answers="number")
        stage = Neighbors(NeighborsConfig(weighting="discriminant", reference=300, index=index))
        state = stage.fit(iter(samples), ctx)
        assert state.values["mode"] == "discriminant"
        notes.append([s.notes["neighbors"] for s in stage.process(samples, state, ctx)])
    for one, other in zip(*notes, strict=True):
        assert one["answer"] == other["answer"]
        assert one["support"] == pytest.approx(other["support"], abs=1e-3)


def test_the_stages_keep_their_contracts_with_lists() -> None:
    vectors = clouds(300)
    samples, encoder = rows_of(vectors, np.arange(300) % 4)
    models = {"encoder": encoder, "expert": FakeGenerator(lambda _: "2")}
    ctx = FakeContext(models=models, answers="number")
    config = NeighborsConfig(weighting="similarity", index=IVF)
    check_sample_stage(Neighbors, config, samples, ctx)
    relabel = RelabelConfig(llm="expert", encoder="encoder", check=None, index=IVF, logprobs=False)
    done = check_sample_stage(Relabel, relabel, samples[:200], ctx)
    state = Relabel(relabel).fit(iter(samples), ctx)
    figures = state.values["report"]["index"]
    assert (figures["vectors"], figures["compared"]) == (300, 300)
    assert 0.5 < figures["recall"] <= 1
    assert 0 <= figures["changed"] < 1
    found = [len(sample.notes["context"]["neighbors"]) for sample in done]
    assert found == [3] * 200
