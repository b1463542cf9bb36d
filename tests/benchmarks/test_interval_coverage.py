"""95% means 95%: how often the intervals hold the true value, over simulated seeds that share test rows."""

from __future__ import annotations

import pytest

from benchmarks.interval_coverage import KINDS, SEED_SDS, SEEDS, coverage, ratio_coverage

TRIALS = 1000  # of 400 trials chance alone moves a share by .011, of these by .007
START = 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("sd", SEED_SDS)
def test_intervals_cover(kind, seeds, sd):
    new, _, _ = coverage(kind, seeds, 303, sd, TRIALS, START)
    assert 0.93 <= new <= 0.97


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_cover_where_seeds_matter_more_than_rows(seeds):
    new, old, _ = coverage(KINDS[1], seeds, 2000, 0.03, 400)
    assert 0.93 <= new <= 0.97
    assert old < 0.9


def test_the_simulation_tells_the_formula_used_before():
    """It counted the rows of a test set as new in every seed; this is what the test above is for."""
    olds = [coverage(KINDS[0], seeds, 303, sd, 200)[1] for seeds in SEEDS for sd in SEED_SDS]
    assert max(olds) < 0.93


def test_the_interval_of_a_ratio_covers():
    held, shown, unbounded = ratio_coverage(3, 303, 0.01, 150)
    assert shown > 0.9
    assert held >= 0.9
    assert unbounded < 0.1
