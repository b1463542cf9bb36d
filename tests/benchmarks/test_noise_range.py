"""The range of the noise rate holds it where views share mistakes: a part of the benchmark's grid, seeded."""

from collections import defaultdict

import numpy as np
import pytest

from benchmarks.noise_range import Cell, difficulty, factor, grid, seen, table_of, trial
from nfilter_robustft.statistics.bounds import rate_range
from nfilter_robustft.statistics.posterior import Pattern, estimate, partition


@pytest.mark.parametrize("trusted", [0, 100])
def test_coverage_of_views_that_share_mistakes(trusted):
    rng = np.random.default_rng(1)
    cells = list(grid(trusted))
    chosen = [cells[place] for place in rng.permutation(len(cells))[:500]]
    results = [trial(cell, 600, rng) for cell in chosen]
    by_setting = defaultdict(list)
    for result in results:
        for name in ("views", "noise", "options", "shared", "accuracy"):
            by_setting[name, getattr(result.cell, name)].append(result.covered)
    # Of all that is drawn at least 95%, and at least 85% of each setting (about 100 draws each).
    assert np.mean([result.covered for result in results]) >= 0.95
    assert min(np.mean(covered) for covered in by_setting.values()) >= 0.85
    assert np.median([result.width for result in results]) < (0.35 if trusted else 0.6)


def test_chains_of_models_that_share_difficulty_and_mistakes():
    # As chains of real models are: the independent model's rate is too low each time, the range holds each rate.
    accuracy = (0.22, 0.39, 0.35, 0.56)
    rng = np.random.default_rng(0)
    for place in range(4):
        turned = (accuracy[place], *accuracy[:place], *accuracy[place + 1 :])
        table, wrong = seen(difficulty(turned, 2.0, 0.4, 0, 2000, rng), 0)
        found = rate_range(table, 3)
        assert found.low <= wrong <= found.high
        assert estimate(table, ["a", "b", "c"]).high < wrong


def test_the_table_is_the_partition_of_each_row():
    rng = np.random.default_rng(2)
    answers = rng.integers(0, 3, (200, 4))
    marked = rng.random(200) < 0.2
    expected = defaultdict(int)
    for row, trusted in zip(answers, marked, strict=True):
        groups = partition([str(answer) for answer in row], {})
        expected[Pattern(groups, 3, (), bool(trusted))] += 1
    assert table_of(answers, 3, marked) == expected


def test_annotators_have_the_accuracy_that_is_asked_for():
    rng = np.random.default_rng(3)
    cell = Cell(2, (0.6, 0.9), 0.3, 4, (0.6, 0.3))
    right = (factor(cell, 20_000, rng) == 0).mean(axis=0)
    assert right == pytest.approx([0.7, 0.6, 0.9], abs=0.015)
    right = (difficulty((0.3, 0.8), 2.0, 0.5, 4, 20_000, rng) == 0).mean(axis=0)
    assert right == pytest.approx([0.3, 0.8], abs=0.015)
