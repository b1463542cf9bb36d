"""Algorithm 1 by hand: the data, start and base of every training and scoring call."""

import numpy as np
import pytest

from nfilter import ModelRef, TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_tokens.evolve import SelfEvolve, SelfEvolveConfig

BIT = 4


def sample(i):
    n = 3 + i % 5
    response = np.arange(n) > 0
    return TokenSample(
        id=f"s{i}", ids=np.arange(n) + 7 * i, response=response, turn=np.zeros(n, np.int16),
        spans=np.zeros((n, 2), np.int32), weights=response.astype(np.float32),
    )  # fmt: skip


def loss(sample, ref):
    """Return an arbitrary function of the token ids and of the number in the adapter's digest."""
    number = int(ref.digest) if ref else 0
    values = ((sample.ids * (number + 3) * 37) % 101).astype(np.float32)
    return np.where(sample.response, values, np.nan).astype(np.float32)


class Ctx(FakeContext):
    """A context that numbers trainings and records the start and the weights of each."""

    def __init__(self, seed=0):
        super().__init__(models={"student": self}, seed=seed)
        self.trained, self.scored, self.published = [], [], []

    def train(self, samples, start=None):
        ref = ModelRef("x", "adapter", "base", str(len(self.trained) + 1))
        weights = {s.id: s.weights.copy() for s in samples}
        self.trained.append((start.digest if start else None, weights))
        return ref

    def publish_model(self, ref):
        self.published.append(ref.digest)

    def score(self, samples, adapter=None):
        self.scored.append((adapter.digest if adapter else None, [s.id for s in samples]))
        return [loss(s, adapter) for s in samples]


def run(config, n=23, seed=0):
    samples = [sample(i) for i in range(n)]
    ctx = Ctx(seed)
    out, _ = check_token_stage(SelfEvolve, config, samples, ctx, bit=BIT, chunk=4)
    return samples, out, ctx


@pytest.mark.parametrize("base", ["fixed", "previous"])
def test_it_is_algorithm_1(base):
    samples, out, ctx = run(SelfEvolveConfig(rounds=3, k=0.4, base=base))
    by_id = {s.id: s for s in samples}
    parts = [list(weights) for _, weights in ctx.trained]
    assert sorted(name for part in parts for name in part) == sorted(by_id)
    assert [len(part) for part in parts] == [6, 6, 6, 5]
    assert [start for start, _ in ctx.trained] == [None, "1", "2", "3"]
    # Each part is scored with the base, then with its round's reference.
    bases = [None, None, None] if base == "fixed" else [None, "1", "2"]
    assert ctx.scored == [
        (ref, part)
        for part, first, second in zip(parts[1:], bases, ["1", "2", "3"], strict=True)
        for ref, part in ((first, part), (second, part))
    ]
    kept = {s.id: s.weights != 0 for s in out}
    assert all(kept[name][1:].all() for name in parts[0])
    for number, part in enumerate(parts[1:], start=1):
        low = (
            ModelRef("x", "adapter", "base", str(number - 1))
            if base == "previous" and number > 1
            else None
        )
        high = ModelRef("x", "adapter", "base", str(number))
        positions = [(name, t) for name in part for t in range(1, len(by_id[name].ids))]
        excess = np.array(
            [loss(by_id[n], low)[t] - loss(by_id[n], high)[t] for n, t in positions], np.float32
        )
        first = np.argsort(-excess, kind="stable")[: int(len(positions) * 0.4)]
        assert {positions[i] for i in first} == {
            (n, t) for n in part for t in np.flatnonzero(kept[n])
        }
        for name in part:
            np.testing.assert_array_equal(ctx.trained[number][1][name] != 0, kept[name])
    assert ctx.published == ["4"]


def test_scores_are_written_except_for_the_first_part():
    samples, out, ctx = run(SelfEvolveConfig(rounds=2, into="gap"))
    first = set(ctx.trained[0][1])
    for before, after in zip(samples, out, strict=True):
        assert np.isnan(after.scores["gap"][1:]).all() == (before.id in first)
        masked = (after.weights == 0) & before.response
        assert (after.reasons[masked] == 1 << BIT).all()
        assert not masked.any() or before.id not in first


def test_the_split_depends_on_the_seed_alone():
    one, again, other = (set(run(SelfEvolveConfig(), seed=s)[2].trained[0][1]) for s in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(("n", "trained"), [(0, 0), (1, 1), (3, 3)])
def test_fewer_samples_than_parts(n, trained):
    _, out, ctx = run(SelfEvolveConfig(rounds=8, k=1.0), n=n)
    assert len(out) == n
    assert len(ctx.trained) == trained
    assert all(s.weights[1:].all() for s in out)


def test_a_round_that_keeps_no_token_does_not_train():
    _, _, ctx = run(SelfEvolveConfig(rounds=2, k=0.0))
    assert len(ctx.trained) == 1
    assert ctx.published == ["1"]


def test_masked_samples_are_in_no_part():
    full = [sample(i) for i in range(9)]
    samples = [s.mask(s.response, 5) if number % 3 == 0 else s for number, s in enumerate(full)]
    ctx = Ctx()
    out, _ = check_token_stage(SelfEvolve, SelfEvolveConfig(rounds=2), samples, ctx, bit=BIT)
    empty = {s.id for s in samples if not s.weights.any()}
    assert len(empty) == 3
    trained = [set(weights) for _, weights in ctx.trained]
    assert sum(map(len, trained)) == 6
    assert not set().union(*trained) & empty
    assert {s.id for s in out if not s.weights.any()} == empty
