"""Pairs: like with like, disjoint, each with one lead, whatever the order of rows and the size of chunks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import ContractError, Message, Sample
from nfilter.testing import FakeContext, FakeEncoder, check_sample_stage
from nfilter_entp.mixing.clusters import Near, cluster_all, clusters
from nfilter_entp.mixing.pair import Pair, PairConfig
from nfilter_entp.neighbours import nearest


def sample(key, query=None, response="r", **more):
    turns = (Message("user", query or f"query {key}"), Message("assistant", response))
    return Sample(str(key), turns, **more)


def planted(text):
    """Block and number are in the text, "b3 n7": one axis a block, a small part of each text's own."""
    block, number = (int(part[1:]) for part in text.split()[:2])
    own = np.random.default_rng(1000 * block + number).normal(size=64)
    return [*(6.0 * np.eye(32)[block]), *(own / np.linalg.norm(own))]


def rows(sizes):
    return [
        sample(f"{b}-{n:02}", f"b{b} n{n}") for b, size in enumerate(sizes) for n in range(size)
    ]


def context(seed=0):
    return FakeContext(models={"encoder": FakeEncoder(planted)}, seed=seed)


def run(samples, *, chunk=None, seed=0, **config):
    stage, ctx = Pair(PairConfig(**config)), context(seed)
    if chunk is None:
        out = check_sample_stage(Pair, PairConfig(**config), samples, ctx)
        return {each.id: each for each in out}, stage.fit(samples, ctx).values["report"]
    state = stage.fit(iter(samples), ctx)
    parts = [samples[start : start + chunk] for start in range(0, len(samples), chunk)]
    out = [each for part in parts for each in stage.process(part, state, ctx)]
    return {each.id: each for each in out}, state.values["report"]


def pairs_of(out):
    """The pairs as sets, after a look at their notes."""
    found = set()
    for each in out.values():
        note = each.notes["pair"]
        if note["with"] is None:
            assert note["why"]
            assert note["lead"] is False
            assert each.why == f"not paired: {note['why']}"
            continue
        other = out[note["with"]].notes["pair"]
        assert other["with"] == each.id
        assert other["lead"] is not note["lead"]
        assert other["similarity"] == note["similarity"]
        assert note["with"] in each.why
        found.add(frozenset({each.id, note["with"]}))
    return found


def test_pairs_are_within_planted_blocks_and_the_odd_ones_are_left_over():
    sizes = [4, 5, 2, 1, 7]
    out, report = run(rows(sizes))
    found = pairs_of(out)
    assert len(found) == sum(size // 2 for size in sizes)
    for pair in found:
        assert len({name.split("-")[0] for name in pair}) == 1
    clusters = {}
    for each in out.values():
        clusters.setdefault(each.notes["pair"]["cluster"], set()).add(each.id.split("-")[0])
    assert sorted(map(len, clusters.values())) == [1] * len(sizes)
    assert report["pairs"] == len(found)
    assert report["clusters"] == 5
    assert report["sizes"] == {"1": 1, "2": 1, "4": 1, "5": 1, "7": 1}
    assert report["left_over"] == {"alone": 1, "odd one out": 2}
    assert report["rows"] == 19
    assert report["silhouette"][f"{report['tau']:g}"] == max(report["silhouette"].values())
    assert "within tau" in out["3-00"].notes["pair"]["why"]


def test_similarity_is_the_cosine_of_the_instructions():
    out, _ = run(rows([2]), tau=0.5)
    a, b = (np.array(planted(f"b0 n{n}")) for n in (0, 1))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert out["0-00"].notes["pair"]["similarity"] == pytest.approx(cosine, abs=1e-5)


def test_pairs_are_neighbours_in_the_order_of_mmr():
    from nfilter_entp.mixing.clusters import mmr

    samples = rows([6])
    out, _ = run(samples, tau=0.3)
    vectors = np.array([planted(each.query) for each in samples])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = mmr(vectors.astype(np.float32), np.arange(6), 0.7)
    expected = {
        frozenset({samples[a].id, samples[b].id})
        for a, b in zip(order[::2], order[1::2], strict=False)
    }
    assert pairs_of(out) == expected
    leads = {each.id for each in out.values() if each.notes["pair"]["lead"]}
    assert leads == {samples[a].id for a in order[::2]}


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    shuffle=st.randoms(use_true_random=False),
    chunk=st.integers(1, 20),
    by=st.sampled_from(["like", "random"]),
    max_pairs=st.one_of(st.none(), st.integers(0, 5)),
)
def test_pairs_are_disjoint_and_depend_on_no_order(sizes, shuffle, chunk, by, max_pairs):
    samples = rows(sizes)
    other = list(samples)
    shuffle.shuffle(other)
    config = {"by": by, "max_pairs": max_pairs, "tau": 0.7}
    one, report = run(samples, chunk=len(samples), **config)
    two, same = run(other, chunk=chunk, **config)
    assert report == same
    assert {key: each.notes["pair"] for key, each in one.items()} == {
        key: each.notes["pair"] for key, each in two.items()
    }
    found = pairs_of(one)
    assert sum(Counter(name for pair in found for name in pair).values()) == 2 * len(found)
    free = sum(size // 2 for size in sizes) if by == "like" else len(samples) // 2
    assert len(found) == min(free, free if max_pairs is None else max_pairs)


def test_max_pairs_takes_each_clusters_first_pair_before_any_second():
    out, report = run(rows([6, 4, 2]), max_pairs=3, tau=0.7)
    assert sorted(next(iter(pair))[0] for pair in pairs_of(out)) == ["0", "1", "2"]
    assert report["left_over"] == {"beyond max_pairs": 6}
    beyond = [each for each in out.values() if each.notes["pair"]["with"] is None]
    assert all("beyond max_pairs: 3" in each.why for each in beyond)
    two, _ = run(rows([6, 4, 2]), max_pairs=2, tau=0.7)
    assert sorted(next(iter(pair))[0] for pair in pairs_of(two)) == ["0", "1"]


def test_at_random_pairs_cross_blocks_and_follow_the_seed():
    samples = rows([10, 10])
    one, report = run(samples, by="random")
    again, _ = run(samples, by="random")
    other, _ = run(samples, by="random", seed=1)
    assert pairs_of(one) == pairs_of(again) != pairs_of(other)
    assert len(pairs_of(one)) == 10
    assert any(len({name[0] for name in pair}) == 2 for pair in pairs_of(one))
    assert all(each.notes["pair"]["cluster"] is None for each in one.values())
    assert "tau" not in report


def test_copies_are_never_paired_with_one_another():
    samples = [sample("b", "b0 n0"), sample("a", "B0  n0"), sample("c", "b0 n0", "another")]
    out, report = run(samples, tau=0.5)
    assert pairs_of(out) == set()
    assert report["left_over"] == {"copy": 2, "alone": 1}
    assert "same instruction as a, which represents both" in out["b"].why
    more, _ = run([*samples, sample("d", "b0 n1")], tau=0.5)
    assert pairs_of(more) == {frozenset({"a", "d"})}
    randomly, _ = run(samples, by="random")
    assert pairs_of(randomly) == set()


def test_conversations_and_empty_instructions_stay_alone():
    turns = (Message("user", "b0 n0"), Message("assistant", "x"), Message("user", "b0 n1"))
    samples = [
        Sample("chat", (*turns, Message("assistant", "y"))),
        Sample("none", (Message("assistant", "y"),)),
        sample("dots", "..."),
        Sample("sys", (Message("system", "Be short."), *sample("x", "b0 n2").messages)),
        sample("z", "b0 n3"),
    ]
    out, report = run(samples, tau=0.5)
    assert pairs_of(out) == {frozenset({"sys", "z"})}
    assert "conversation of 3 turns" in out["chat"].why
    assert "no instruction" in out["none"].why
    assert report["left_over"] == {"unfit": 3}


def test_pinned_samples_may_be_paired_and_nothing_but_notes_changes():
    samples = [sample("a", "b0 n0", pinned=True), sample("b", "b0 n1")]
    out, _ = run(samples, tau=0.5)
    assert pairs_of(out)
    assert all(each.dropped is None for each in out.values())


def test_without_a_row_that_can_be_paired_nothing_breaks():
    for samples in ([], [sample("dots", "...")], [sample("a", "b0 n0")]):
        for config in ({}, {"by": "random"}, {"tau": 0.5}):
            out, report = run(samples, chunk=5, **config)
            assert pairs_of(out) == set()
            assert report["pairs"] == 0


@pytest.mark.parametrize("size", [30, 40, 60, 120, 300])
@pytest.mark.parametrize("exact", [50_000, 100])
def test_cliques_larger_than_the_links_leave_at_most_one_alone(size, exact):
    samples = rows([size, 2])
    out, report = run(samples, chunk=50, tau=0.5, exact_up_to=exact)
    pairs = pairs_of(out)
    alone = [
        each for each in out.values() if "without a cluster" in each.notes["pair"].get("why", "")
    ]
    assert len(alone) <= 1
    assert len(pairs) == report["pairs"] > (size + 2) // 2 - size // 25 - 2
    assert sum(int(key) * count for key, count in report["sizes"].items()) == size + 2
    assert "0" not in report["sizes"]


@given(st.integers(0, 1000), st.sampled_from([2, 3, 5]), st.sampled_from([0.2, 0.5, 0.8]))
def test_nobody_alone_has_another_within_tau_who_is_alone(seed, links, tau):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(50, 3))
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    tie = rng.permutation(50)
    near = Near(*nearest(vectors, links))
    near.sort_ties(tie)
    label = cluster_all(vectors, near, tau, links + 1, tie, 50_000)
    sizes = np.bincount(label)
    assert (sizes > 0).all()
    assert sizes.max() <= links + 1
    alone = vectors[sizes[label] == 1].astype(np.float64)
    alike = alone @ alone.T
    np.fill_diagonal(alike, -1)
    assert not (alike >= tau + 1e-6).any()
    # Those who found a cluster at once are still in it.
    first = clusters(near, tau, links + 1, tie)
    for number in np.flatnonzero(np.bincount(first) > 1):
        (now,) = set(label[first == number].tolist())
        assert (label == now).sum() == (first == number).sum()


def test_a_cluster_that_no_number_of_links_can_fill_is_refused():
    with pytest.raises(ValidationError, match=r"type links: 99, or size: 33"):
        PairConfig(size=100)
    with pytest.raises(ValidationError, match=r"type links: 24, or size: 6"):
        PairConfig(links=5)
    assert PairConfig(size=33).size == PairConfig(size=100, links=99).links - 66


def test_a_sample_that_fit_never_saw_is_refused():
    stage, ctx = Pair(PairConfig(tau=0.5)), context()
    state = stage.fit(rows([2]), ctx)
    with pytest.raises(ContractError, match="'new' was absent"):
        stage.process([sample("new", "b0 n9")], state, ctx)
