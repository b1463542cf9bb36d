"""Samples sorted in runs on disk are in the order of one sort, and are not in memory together."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Message, Sample
from nfilter.testing import FakeContext, view
from nfilter_robustft import sorted_samples
from nfilter_robustft.select import Select, SelectConfig
from nfilter_robustft.sorted_samples import SortedSamples

VALUES = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, float("inf")]))


@given(st.lists(st.tuples(VALUES, st.text(max_size=4)), max_size=60), st.integers(1, 25))
@settings(max_examples=150)
def test_any_samples_are_in_the_order_of_one_sort(pairs, in_memory):
    with pytest.MonkeyPatch.context() as patch, SortedSamples() as rows:
        patch.setattr(sorted_samples, "IN_MEMORY", in_memory)
        patch.setattr(sorted_samples, "_BLOCK", 3)
        for value, name in pairs:
            rows.add(value, name)
        assert list(rows) == sorted(pairs)
        assert list(rows) == sorted(pairs)
        rows.clear()
        assert list(rows) == []


def flagged(name, context, review=None):
    notes = {"check": {"flagged": True, "noise_score": 0.5}, "context": view("a", nll=context)}
    if review is not None:
        notes["review"] = view("a", nll=review)
    return Sample(name, (Message("user", "q"), Message("assistant", "a")), notes=notes)


CASES = {
    "ties": lambda n: flagged(f"s{n * 7 % 50}", (n * 7 % 50) // 5),
    "some without a value": lambda n: flagged(f"s{n:02}", None if n % 3 else 90 - n, 1.0),
    "the first with a value comes late": lambda n: flagged(
        f"s{n:02}", None if n < 40 else n, 90 - n
    ),
    "the fallback alone": lambda n: flagged(f"s{n:02}", None, n % 4),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", [{"keep": 0.3}, {"preset": "official"}, {"by": "random"}])
def test_the_selection_is_the_same_from_runs_of_any_size(case, config, monkeypatch):
    samples = [CASES[case](n) for n in range(50)]
    states = []
    for in_memory in (1, 7, 50, 1000):
        monkeypatch.setattr(sorted_samples, "IN_MEMORY", in_memory)
        ctx = FakeContext()
        state = Select(SelectConfig(**config)).fit(iter(samples), ctx)
        arrays = {name: array.tolist() for name, array in state.arrays.items()}
        states.append((dict(state.values), arrays, ctx.log.lines))
    assert all(state == states[0] for state in states)
    values = states[0][0]
    by = "review" if case == "the fallback alone" and config.get("by") != "random" else None
    assert values["by"] == (by or config.get("by", "context"))


def test_memory_is_48_bytes_per_flagged_sample(monkeypatch):
    monkeypatch.setattr(sorted_samples, "IN_MEMORY", 500)
    peaks = []
    for rows in (1_000, 9_000):
        tracemalloc.start()
        stream = (flagged(f"sample-{n:06}", float(np.cos(n))) for n in range(rows))
        Select(SelectConfig(keep=0.3)).fit(stream, FakeContext())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 8_000 < 52
