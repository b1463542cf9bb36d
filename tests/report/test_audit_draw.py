"""Checking by hand: the draw of rows, and the estimates from their answers."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter.metrics.stratified import Checked, estimate
from nfilter.report.drawing import Unit, draw, extended

# --- the draw ------------------------------------------------------------------------------------------------


def population(n: int = 1000, share: float = 0.3, seed: int = 0) -> list[Unit]:
    rng = random.Random(seed)
    return [Unit(f"row-{i}", flagged=rng.random() < share, score=rng.random()) for i in range(n)]


def test_strata_are_flags_by_bands_of_the_score():
    units = population()
    strata = draw(units, 50, 0)
    by_id = {unit.id: unit for unit in units}
    assert [stratum.flagged for stratum in strata] == [True] * 3 + [False] * 3
    assert sum(stratum.size for stratum in strata) == 1000
    assert sum(len(stratum.drawn) for stratum in strata) == 50
    assert [sum(len(s.drawn) for s in strata if s.flagged is flag) for flag in (True, False)] == [
        25,
        25,
    ]
    for stratum in strata:
        assert len(set(stratum.drawn)) == len(stratum.drawn)
        for sample_id in stratum.drawn:
            assert by_id[sample_id].flagged is stratum.flagged
            assert stratum.low <= by_id[sample_id].score <= stratum.high
    for left, right in itertools.pairwise(strata):
        if left.flagged is right.flagged:
            assert left.high <= right.low
            assert abs(left.size - right.size) <= 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    units = population()
    shuffled = random.Random(1).sample(units, len(units))
    assert draw(units, 50, 0) == draw(shuffled, 50, 0)
    assert draw(units, 50, 0) != draw(units, 50, 1)


def test_within_a_stratum_every_row_is_as_likely():
    units = [Unit(f"row-{i}", flagged=False, score=0.5) for i in range(20)]
    counts = dict.fromkeys((unit.id for unit in units), 0)
    for seed in range(2000):
        for stratum in draw(units, 3, seed):
            for sample_id in stratum.drawn:
                counts[sample_id] += 1
    # 300 expected each; the standard deviation of a count is 16.
    assert all(300 - 80 < count < 300 + 80 for count in counts.values())


@given(
    st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 1)), min_size=1, max_size=60),
    st.integers(2, 80),
    st.integers(0, 3),
)
def test_any_population_is_drawn_from(pairs, n, seed):
    units = [Unit(str(i), flagged, score) for i, (flagged, score) in enumerate(pairs)]
    strata = draw(units, n, seed)
    assert sum(stratum.size for stratum in strata) == len(units)
    assert sum(len(stratum.drawn) for stratum in strata) == min(n, len(units))
    for flag in (True, False):
        if any(unit.flagged is flag for unit in units):
            assert any(stratum.drawn for stratum in strata if stratum.flagged is flag)


# --- the estimates -------------------------------------------------------------------------------------------


def test_estimates_are_weighted_by_what_a_row_stands_for():
    strata = [Checked(True, 100, 10, 9), Checked(True, 300, 10, 6), Checked(False, 600, 20, 1)]
    found = estimate(strata)
    weights = [(100 / 10, 9, True), (300 / 10, 6, True), (600 / 20, 1, False)]
    flagged_wrong = sum(w * k for w, k, flagged in weights if flagged)
    wrong = sum(w * k for w, k, _ in weights)
    assert found.precision.value == pytest.approx(flagged_wrong / 400)
    assert found.recall.value == pytest.approx(flagged_wrong / wrong)
    assert found.noise_rate.value == pytest.approx(wrong / 1000)
    for each in (found.precision, found.recall, found.noise_rate):
        assert 0 <= each.low <= each.value <= each.high <= 1


def test_a_census_leaves_nothing_to_guess():
    found = estimate([Checked(True, 10, 10, 8), Checked(False, 40, 40, 2)])
    for each, value in ((found.precision, 0.8), (found.recall, 0.8), (found.noise_rate, 0.2)):
        assert (each.value, each.low, each.high) == pytest.approx((value, value, value))


@pytest.mark.parametrize(
    ("strata", "precision", "recall", "noise"),
    [
        ([Checked(True, 9, 0, 0), Checked(False, 9, 3, 1)], "no flagged row is checked", "no flagged row", "no flagged row"),
        ([Checked(True, 9, 3, 3), Checked(False, 9, 0, 0)], None, "no row without a flag", "no row without a flag"),
        ([Checked(False, 9, 3, 1)], "no row is flagged", None, None),
        ([Checked(True, 9, 3, 3)], None, None, None),
        ([Checked(True, 9, 3, 0), Checked(False, 9, 3, 0)], None, "undefined, because no checked label is wrong", None),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_none_with_the_reason(strata, precision, recall, noise):
    found = estimate(strata)
    for each, why in (
        (found.precision, precision),
        (found.recall, recall),
        (found.noise_rate, noise),
    ):
        assert (each.value is None) == (why is not None)
        assert (each.why or "").startswith(why or "")


def test_a_stratum_that_nobody_answered_joins_its_group():
    parts = [Checked(True, 50, 10, 9), Checked(True, 50, 0, 0), Checked(False, 100, 10, 1)]
    merged = [Checked(True, 100, 10, 9), Checked(False, 100, 10, 1)]
    assert estimate(parts) == estimate(merged)


def simulate(size: int, flagged: float, precision: float, missed: float, n: int, times: int = 200):
    """Populations whose chance of a wrong label rises with the score; each is drawn from and checked once."""
    rng = random.Random(f"{size} {flagged} {n}")
    units, wrong = [], {}
    for i in range(size):
        flag, score = rng.random() < flagged, rng.random()
        units.append(Unit(str(i), flag, score))
        chance = 1 - (1 - precision) * 2 * (1 - score) if flag else missed * 2 * score
        wrong[str(i)] = rng.random() < chance
    hits = [unit for unit in units if unit.flagged and wrong[unit.id]]
    true = {
        "precision": len(hits) / sum(unit.flagged for unit in units),
        "recall": len(hits) / sum(wrong.values()),
        "noise_rate": sum(wrong.values()) / size,
    }
    covered = dict.fromkeys(true, 0)
    values: dict[str, list[float]] = {name: [] for name in true}
    for seed in range(times):
        checked = [
            Checked(s.flagged, s.size, len(s.drawn), sum(wrong[i] for i in s.drawn))
            for s in draw(units, n, seed)
        ]
        found = estimate(checked, seed)
        for name, value in true.items():
            each = getattr(found, name)
            values[name].append(each.value)
            covered[name] += each.low <= value <= each.high
    return true, values, {name: count / times for name, count in covered.items()}


@pytest.mark.parametrize(
    ("size", "flagged", "precision", "missed", "n"),
    [(1000, 0.5, 0.9, 0.1, 50), (1000, 0.3, 0.8, 0.05, 50), (800, 0.4, 0.7, 0.3, 200)],
)
def test_estimates_are_unbiased_and_intervals_cover(
    size, flagged, precision, missed, n, monkeypatch
):
    import numpy as np

    # Fewer draws make an interval a little rougher, not wider or narrower.
    monkeypatch.setattr(f"{estimate.__module__}._DRAWS", 3000)
    true, values, covered = simulate(size, flagged, precision, missed, n)
    for name, value in true.items():
        error = np.std(values[name], ddof=1) / np.sqrt(len(values[name]))
        # Recall is a ratio: its bias is of the order 1/n, and small beside its interval.
        slack = 0.5 / n if name == "recall" else 0.0
        assert abs(np.mean(values[name]) - value) < 3.5 * error + slack, name
        # 95% of 200 is 190 with a standard deviation of 3.1.
        assert 0.90 <= covered[name] <= 1.0, (name, covered)


def test_naive_shares_would_be_biased():
    """The same populations without weights: the noise rate of the sample is far from the population's."""
    strata = draw([Unit(str(i), i < 100, 0.5) for i in range(2000)], 50, 0)
    checked = [
        Checked(s.flagged, s.size, len(s.drawn), len(s.drawn) if s.flagged else 0) for s in strata
    ]
    unweighted = sum(c.wrong for c in checked) / sum(c.checked for c in checked)
    assert unweighted == pytest.approx(0.5)
    assert estimate(checked).noise_rate.value == pytest.approx(0.05)


def test_an_extended_draw_is_the_larger_draw():
    units = population()
    few, many = draw(units, 50, 7), draw(units, 120, 7)
    assert extended(units, 50, 7, 120, few) == many
    assert all(set(a.drawn) < set(b.drawn) for a, b in zip(few, many, strict=True))
    # A draw of few rows keeps its bands, and rows that another version drew stay drawn.
    small = draw(units, 10, 7)
    other = [replace(s, drawn=tuple(sorted(draw_ids(units, s))[: len(s.drawn)])) for s in small]
    after = extended(units, 10, 7, 40, other)
    assert after is not None
    assert [s.name for s in after] == [s.name for s in small]
    assert sum(len(s.drawn) for s in after) == 40
    for s, b in zip(after, other, strict=True):
        assert s.drawn[: len(b.drawn)] == b.drawn
        assert len(set(s.drawn)) == len(s.drawn)
    assert extended(population(seed=1), 50, 7, 120, few) is None
    assert extended(units[1:], 50, 7, 120, few) is None


def draw_ids(units: list[Unit], stratum: Any) -> list[str]:
    return [
        u.id
        for u in units
        if u.flagged == stratum.flagged and stratum.low <= (u.score or 0) <= stratum.high
    ]


def test_rows_of_one_score_are_as_likely_as_the_others_of_their_band():
    # The lower band has rows 0 to 19 and half of those of equal score, which the tie-breaking chose.
    units = [Unit(f"low-{i}", False, i / 1000) for i in range(20)]
    units += [Unit(f"tied-{i}", False, 0.5) for i in range(40)]
    units += [Unit(f"high-{i}", False, 0.9 + i / 1000) for i in range(60)]
    tied = drawn = 0
    for seed in range(400):
        first = draw(units, 12, seed)[0]
        tied += sum(name.startswith("tied") for name in first.drawn)
        drawn += len(first.drawn)
    assert first.size == 40
    # Half of the band; 4 standard deviations of a share of 1,600 rows.
    assert abs(tied / drawn - 0.5) < 4 * 0.5 / drawn**0.5
