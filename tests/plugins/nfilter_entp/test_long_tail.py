"""The long tail: what is far from all else is kept, copies are no rarity."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import ContractError, Embeds, Message, Sample
from nfilter.recipe.uses import model_needs
from nfilter.testing import FakeContext, FakeEncoder, check_sample_stage
from nfilter_entp.long_tail import LongTail, LongTailConfig, long_tail_score


def sample(n, text=None, pinned=False, **notes):
    turns = (Message("user", "Q"), Message("assistant", str(n if text is None else text)))
    return Sample(f"s{n}", turns, notes=notes, pinned=pinned)


def context(points):
    return FakeContext(models={"e": FakeEncoder(lambda text: points[int(text.split("\n")[1])])})


def ranked(samples, points, **config):
    ctx = context(points)
    settings = LongTailConfig(encoder="e", **config)
    out = check_sample_stage(LongTail, settings, samples, ctx)
    return out, LongTail(settings).fit(samples, context(points)).values["report"]["long_tail"], ctx


def kept(out):
    return {each.id for each in out if each.dropped is None}


def crowd(n, seed=0):
    """``n`` points close together and three that stand alone."""
    rng = np.random.default_rng(seed)
    points = np.zeros((n + 3, 8))
    points[:n, 0] = 1
    points[:n] += rng.normal(size=(n, 8)) * 0.05
    points[n:] = np.eye(8)[1:4]
    return points


def test_those_that_stand_alone_are_kept():
    points = crowd(30)
    out, report, _ = ranked([sample(n) for n in range(33)], points, keep=3, k=5)
    assert kept(out) == {"s30", "s31", "s32"}
    assert (report["kept"], report["samples"], report["texts"], report["copies"]) == (3, 33, 33, 0)
    assert report["score_of_kept"]["min"] > report["score"]["q3"]


def test_score_and_distance_by_hand():
    points = crowd(30)
    out, _, _ = ranked([sample(n) for n in range(33)], points, k=5)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    apart = 1 - unit @ unit.T
    np.fill_diagonal(apart, np.inf)
    d = np.sort(apart, axis=1)[:, :5].mean(axis=1)
    order = np.argsort(-d)
    for n, each in enumerate(out):
        note = each.notes["long_tail"]
        assert note["distance"] == pytest.approx(d[n], abs=1e-5)
        assert note["score"] == pytest.approx(2 / (1 + math.exp(-d[n])) - 1, abs=1e-5)
        assert note["copy"] is False
        assert f"rank {note['rank']} of 33" in each.why
    # Float32 may exchange two that are equal in their first five digits, and no others.
    ranks = np.array([each.notes["long_tail"]["rank"] for each in out])
    by_rank = d[np.argsort(ranks)]
    assert (np.diff(by_rank) < 1e-5).all()
    assert set(ranks[order[:3]]) == {1, 2, 3}


def test_the_score_is_0_for_what_is_everywhere_and_below_1():
    assert long_tail_score(0.0) == 0
    assert long_tail_score(1.0) == pytest.approx(math.tanh(0.5))
    assert long_tail_score(0.2) < long_tail_score(0.3) < long_tail_score(2.0) < 1


def test_a_copy_is_no_rarity():
    """The lone point five times over: one stays, and its copies rank behind all others."""
    points = crowd(20)
    samples = [sample(n) for n in range(23)] + [sample(100 + n, text=20) for n in range(4)]
    out, report, _ = ranked(samples, points, keep=23, k=5)
    assert report["copies"] == 4
    of_lone = [each for each in out if each.response == "20"]
    (stays,) = [each for each in of_lone if each.dropped is None]
    assert stays.notes["long_tail"]["copy"] is False
    alone, _, _ = ranked([sample(n) for n in range(23)], points, keep=23, k=5)
    assert stays.notes["long_tail"]["score"] == alone[20].notes["long_tail"]["score"]
    for each in of_lone:
        if each is not stays:
            assert each.notes["long_tail"]["score"] == 0
            assert "a copy of another sample" in each.dropped


def test_by_a_label_the_higher_comes_first():
    points = crowd(10)
    labels = [5] * 5 + [1] * 7 + [None]
    samples = [sample(n, curated={"label": label}) for n, label in enumerate(labels)]
    out, _, _ = ranked(samples, points, keep=6, by="curated", k=3)
    # All of label 5; of label 1 the rarest; what has no label is last, though it stands alone.
    assert {"s0", "s1", "s2", "s3", "s4"} < kept(out)
    assert len(kept(out)) == 6
    assert kept(out) & {"s10", "s11"}
    assert out[12].notes["long_tail"]["rank"] == 13
    assert "by label 5 in 'curated', then long-tail score" in out[0].why


@pytest.mark.parametrize(("keep", "count"), [(0, 0), (7, 7), (0.5, 5), (0.29, 2), (1.0, 10), (99, 10)])  # fmt: skip
def test_how_many_stay(keep, count):
    out, report, ctx = ranked([sample(n) for n in range(10)], crowd(7), keep=keep)
    assert len(kept(out)) == report["kept"] == count
    assert bool([1 for level, _ in ctx.log.lines if level == "warning"]) == (keep == 99)


def test_pinned_samples_stay_and_count():
    points = crowd(20)
    samples = [sample(n, pinned=n in (0, 1)) for n in range(23)]
    out, _, _ = ranked(samples, points, keep=3)
    assert {"s0", "s1"} < kept(out)
    assert len(kept(out)) == 3
    assert out[0].why.startswith("pinned; ")
    out, _, ctx = ranked(samples, points, keep=1)
    assert kept(out) == {"s0", "s1"}
    assert "2 pinned samples stay" in str(ctx.log.lines)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 1000), st.floats(0, 1), st.integers(1, 9))
def test_neither_order_nor_chunks_change_anything(n, seed, keep, size):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 4))
    samples = [sample(i, text=rng.integers(n)) for i in range(n)]
    config = LongTailConfig(encoder="e", keep=keep, k=3)
    straight = {each.id: each for each in check_sample_stage(LongTail, config, samples, context(points))}  # fmt: skip
    mixed = [samples[i] for i in rng.permutation(n)]
    state = LongTail(config).fit(iter(mixed), context(points))
    for start in range(0, n, size):
        for each in LongTail(config).process(mixed[start : start + size], state, context(points)):
            assert each == straight[each.id]
    ranks = sorted(each.notes["long_tail"]["rank"] for each in straight.values())
    assert ranks == list(range(1, n + 1))


@pytest.mark.types("put entp.curate or entp.rate before")
def test_the_contract_and_its_errors():
    config = LongTailConfig(encoder="e", by="curated", into="t")
    contract = LongTail.contract(config)
    assert (contract.reads, contract.writes) == ({"curated"}, {"t"})
    assert model_needs(config)[0].capability is Embeds
    assert LongTail.contract(LongTailConfig(encoder="e")).reads == frozenset()
    for keep in (-1, 1.5, True):
        with pytest.raises(ValidationError):
            LongTailConfig(encoder="e", keep=keep)
    stage = LongTail(LongTailConfig(encoder="e", by="curated"))
    with pytest.raises(ContractError, match=r"put entp\.curate or entp\.rate before"):
        stage.fit([sample(0)], context([[1.0]]))
    stage = LongTail(LongTailConfig(encoder="e"))
    state = stage.fit([sample(0)], context([[1.0], [1.0]]))
    with pytest.raises(ContractError, match="'s1' was absent"):
        stage.process([sample(1)], state, context([[1.0], [1.0]]))
    stage = LongTail(LongTailConfig(encoder="e"))  # without by
    assert stage.fit([sample(0), sample(1)], context([[1.0], [1.0]])).values
    for note in (
        {"label": 3, "score": 0.9},
        {"label": 3, "overall": 7},
    ):  # as entp.curate, and as entp.rate, write it
        stage = LongTail(LongTailConfig(encoder="e", by="curated"))
        assert stage.fit(
            [sample(0, curated=note), sample(1, curated=note)], context([[1.0], [1.0]])
        ).values
