"""Selection by S-IFD: values computed by hand, the random control, the ids sent to the model."""

from __future__ import annotations

import numpy as np
import pytest

from nfilter import TokenSample
from nfilter.testing import FakeContext, check_token_stage
from nfilter_tshirt import Select, SelectConfig

# Per sample: (loss in the conversation, loss in the response alone) of each response token.
LOSSES = {
    #      deltas -2, 0, +.5: IFD exp(-.5); over 1 in size: exp(-2)
    "far": [(1.0, 3.0), (1.0, 1.0), (1.0, 0.5)],
    #      deltas -1, -1.5: IFD and S-IFD exp(-1.25)
    "near": [(0.5, 1.5), (0.5, 2.0)],
    #      deltas +2, -1: IFD exp(.5), so the instruction does not help
    "worse": [(3.0, 1.0), (1.0, 2.0)],
    #      delta -.25: no token counts at a share of one half
    "same": [(0.75, 1.0)],
}


class Table:
    """A model with a table of losses; a whole conversation has token 7 at position 1."""

    def __init__(self) -> None:
        self.alone: list[TokenSample] = []

    def score(self, samples):
        out = []
        for sample in samples:
            whole = sample.ids[1] == 7
            if not whole:
                self.alone.append(sample)
            losses = np.full(len(sample.ids), np.nan, np.float32)
            losses[sample.response] = [pair[0 if whole else 1] for pair in LOSSES[sample.id]]
            out.append(losses)
        return out


def sample(name: str) -> TokenSample:
    """Return a start token, two prompt tokens and the response tokens 100, 101, ..."""
    count = len(LOSSES[name])
    ids = np.array([1, 7, 8, *range(100, 100 + count)])
    response = ids >= 100
    n = len(ids)
    return TokenSample(
        id=name, ids=ids, response=response, turn=np.zeros(n, np.int16), spans=np.zeros((n, 2), np.int32),
        weights=response.astype(np.float32),
    )  # fmt: skip


def selected(samples=None, seed=0, **config):
    model = Table()
    ctx = FakeContext(models={"student": model}, seed=seed)
    samples = [sample(name) for name in LOSSES] if samples is None else samples
    # One sample per chunk: the selection must not depend on the chunk.
    done, state = check_token_stage(Select, SelectConfig(**config), samples, ctx, bit=3, chunk=1)
    kept = [out.id for out in done if out.weights.any()]
    return kept, done, state.values["report"], model


def test_s_ifd_uses_the_top_share_of_all_deltas_by_size():
    # |delta|: 0 .25 .5 1 1 1.5 2 2; the quantile at one half is 1.
    kept, done, report, _ = selected(keep=0.25)
    assert kept == ["near"]
    assert report == {"helped": 2, "kept": 1}
    means = [out.scores["s_ifd"][-1] for out in done]
    assert means == pytest.approx(np.exp([-2.0, -1.25, 0.5, 0.0]))
    assert list(done[0].scores["delta"][3:]) == [-2.0, 0.0, 0.5]
    assert np.isnan(done[0].scores["delta"][:3]).all()
    assert [list(out.reasons) for out in done[:2]] == [[0, 0, 0, 8, 8, 8], [0] * 5]


def test_s_ifd_over_all_tokens_is_the_ifd():
    kept, done, report, _ = selected(keep=0.5, ratio=1)
    assert [out.scores["s_ifd"][-1] for out in done] == pytest.approx(
        np.exp([-0.5, -1.25, 0.5, -0.25])
    )
    assert kept == ["far", "same"]
    assert report == {"helped": 3, "kept": 2}


def test_samples_with_an_ifd_of_at_least_one_are_never_kept():
    kept, *_ = selected(keep=1)
    assert kept == ["far", "near"]  # "worse" has an IFD over 1, "same" no token that counts
    kept, _, report, _ = selected([sample("worse")], keep=1)
    assert kept == []
    assert report == {"helped": 0, "kept": 0}


def test_the_response_alone_follows_the_first_token():
    _, _, _, model = selected([sample("far")])
    assert list(model.alone[0].ids) == [1, 100, 101, 102]
    assert list(model.alone[0].response) == [False, True, True, True]


def test_the_control_draws_the_same_number_from_all_samples():
    drawn = {tuple(selected(keep=0.5, random=True, seed=seed)[0]) for seed in range(40)}
    assert {len(names) for names in drawn} == {2}
    assert {name for names in drawn for name in names} == set(LOSSES)
    assert len(drawn) == 6
    again = selected(keep=0.5, random=True, seed=3)[0]
    assert again == selected(keep=0.5, random=True, seed=3)[0]


def test_ties_are_broken_at_random_and_the_count_is_exact(monkeypatch):
    names = [f"twin-{number}" for number in range(10)]
    for name in names:
        monkeypatch.setitem(LOSSES, name, [(1.0, 2.0)])
    twins = [sample(name) for name in names]
    kept = selected(twins, keep=0.3)[0]
    assert len(kept) == 3
    assert selected(twins[::-1], keep=0.3)[0] == kept[::-1]
    assert len({tuple(selected(twins, keep=0.3, seed=seed)[0]) for seed in range(9)}) > 1


def test_samples_without_a_weight_are_ignored():
    masked = sample("near").mask(np.ones(5, bool), 0)
    kept, done, report, _ = selected([sample("far"), masked], keep=1)
    assert kept == ["far"]
    assert report == {"helped": 1, "kept": 1}
    assert not done[1].weights.any()
    assert selected([], keep=1)[2] == {"helped": 0, "kept": 0}
