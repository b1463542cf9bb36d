"""``robustft.random``: exact size, dependence on the seed, and reasons."""

import pytest
from pydantic import ValidationError

from nfilter import Contract, ContractError, Message, Sample
from nfilter.testing import FakeContext, check_sample_stage
from nfilter_robustft.control import Random, RandomConfig


def rows(n=40, pinned=()):
    turns = (Message("user", "q"), Message("assistant", "a"))
    return [Sample(f"s{i:02}", turns, pinned=f"s{i:02}" in pinned) for i in range(n)]


def kept(keep, samples=None, seed=0, ctx=None):
    samples = rows() if samples is None else samples
    out = check_sample_stage(
        Random, RandomConfig(keep=keep), samples, ctx or FakeContext(seed=seed)
    )
    return {each.id for each in out if each.dropped is None}


@pytest.mark.parametrize(
    ("keep", "n", "expected"),
    [(7, 40, 7), (0, 40, 0), (1, 40, 1), (1.0, 40, 40), (0.0, 40, 0), (0.5, 41, 20), (0.29, 100, 29), (0.7, 10, 7)],
)  # fmt: skip
def test_number_of_kept_samples_is_exact(keep, n, expected):
    assert len(kept(keep, rows(n))) == expected


def test_subset_depends_on_the_seed_only():
    assert kept(12) == kept(12)
    assert kept(12) != kept(12, seed=1)
    assert kept(12) == kept(12, rows()[::-1])
    assert kept(12) not in ({each.id for each in rows()[:12]}, {each.id for each in rows()[-12:]})


def test_larger_subset_contains_the_smaller():
    assert kept(5) < kept(12) < kept(0.5)


def test_samples_are_drawn_uniformly():
    hits = dict.fromkeys((each.id for each in rows(10)), 0)
    for seed in range(400):
        for name in kept(5, rows(10), seed=seed):
            hits[name] += 1
    # Binomial(400, .5): ten counts, each beyond 4 standard deviations with a probability below 1e-4.
    assert all(160 < count < 240 for count in hits.values())


def test_every_decision_has_a_reason():
    out = check_sample_stage(Random, RandomConfig(keep=2), rows(5), FakeContext())
    ranks = sorted(int(each.why.split("rank ")[1].split(" of 5")[0]) for each in out)
    assert ranks == [1, 2, 3, 4, 5]
    for each in out:
        assert each.why.startswith("drawn" if each.dropped is None else "not drawn")
        assert each.why.endswith("keep 2 keeps the first 2")


def test_keep_above_the_number_of_samples_warns():
    ctx = FakeContext()
    assert len(kept(50, ctx=ctx)) == 40
    assert ("warning", "keep: 50 exceeds the 40 samples, all of which are kept") in ctx.log.lines


def test_pinned_samples_are_kept_and_count():
    held = {"s03", "s31"}
    assert all(held <= kept(10, rows(pinned=held), seed=seed) for seed in range(5))
    assert len(kept(10, rows(pinned=held))) == 10
    ctx = FakeContext()
    assert kept(1, rows(pinned=held), ctx=ctx) == held
    assert any("2 samples are pinned" in text for _, text in ctx.log.lines)


def test_result_does_not_depend_on_chunks():
    ctx, stage = FakeContext(), Random(RandomConfig(keep=0.35))
    state = stage.fit(iter(rows()), ctx)
    parts = [each for i in range(0, 40, 7) for each in stage.process(rows()[i : i + 7], state, ctx)]
    assert parts == stage.process(rows(), state, ctx)
    assert sum(values.nbytes for values in state.arrays.values()) == 16 * 40
    assert kept(3, []) == set()


def test_unknown_sample_raises():
    ctx, stage = FakeContext(), Random(RandomConfig(keep=1))
    with pytest.raises(ContractError, match="'s00' was missing when"):
        stage.process(rows(1), stage.fit([], ctx), ctx)


def test_contract_and_config():
    assert Random.contract(RandomConfig(keep=1)) == Contract()
    assert isinstance(RandomConfig(keep=1).keep, int)
    assert isinstance(RandomConfig(keep=1.0).keep, float)
    for bad in ({}, {"keep": -1}, {"keep": 1.5}, {"keep": True}, {"keep": "half"}, {"keep": None}):
        with pytest.raises(ValidationError):
            RandomConfig(**bad)
