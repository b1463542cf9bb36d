"""Which answers of an audit count where a person reviews borderline rows too: figures against a known truth, by simulation."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from nfilter.metrics.stratified import Checked, Estimates, estimate
from nfilter.report.drawing import (
    Draw,
    Stratum,
    Unit,
    draw,
    extended,
    in_extended_order,
    in_random_order,
    reached,
)

Plan = Sequence[tuple[str, int]]
"""What a person does in turn: ``order`` answers that many rows in the random order, ``borderline`` as many nearest the cut."""
SIZE = 1500
DRAWN = 60
TIMES = 300
PLANS: dict[str, Plan] = {
    "borderline rows, then a part of the draw": [("borderline", 400), ("order", 30)],
    "a part of the draw, then borderline rows": [("order", 30), ("borderline", 400)],
    "in turns": [("order", 5), ("borderline", 80)] * 5,
    "all of the draw": [("borderline", 200), ("order", DRAWN)],
}


class World:
    """Rows of which those with views in conflict come first in a review, and have labels that the flags misjudge most."""

    def __init__(self) -> None:
        rng = random.Random(3)
        self.units: list[Unit] = []
        self.wrong: set[str] = set()
        clear: dict[str, float] = {}
        for number in range(SIZE):
            score = rng.random() ** 1.3
            flagged = score > 0.5
            conflict = rng.random() < 0.3
            misjudged = 0.6 if conflict else 0.05
            chance = 1 - misjudged if flagged else misjudged / 2
            self.units.append(Unit(f"row-{number}", flagged, score))
            clear[f"row-{number}"] = abs(score - 0.5) - conflict / 2
            if rng.random() < chance:
                self.wrong.add(f"row-{number}")
        flags = {unit.id for unit in self.units if unit.flagged}
        self.truth = {
            "precision": len(flags & self.wrong) / len(flags),
            "recall": len(flags & self.wrong) / len(self.wrong),
            "noise_rate": len(self.wrong) / SIZE,
        }
        self.borderline = sorted(clear, key=lambda name: clear[name])


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def review(world: World, drawn: Draw, plan: Plan) -> tuple[set[str], set[str]]:
    """Return the rows with an answer, and those of them that the person met in the random order."""
    answered: set[str] = set()
    in_order: set[str] = set()
    for how, count in plan:
        queue = drawn.ids if how == "order" else world.borderline
        taken = [name for name in queue if name not in answered][:count]
        answered.update(taken)
        if how == "order":
            in_order.update(taken)
    return answered, in_order


def estimated(
    strata: Sequence[Stratum], counted: set[str], wrong: set[str], seed: int
) -> Estimates:
    checked = [
        Checked(s.flagged, s.size, sum(i in counted for i in s.drawn), sum(i in counted & wrong for i in s.drawn))
        for s in strata
    ]  # fmt: skip
    return estimate(checked, seed)


def simulated(world: World, plan: Plan, *, all_answers: bool = False) -> list[Estimates]:
    found = []
    for seed in range(TIMES):
        strata = draw(world.units, DRAWN, seed)
        drawn = in_random_order(strata, seed)
        answered, in_order = review(world, drawn, plan)
        end = DRAWN if all_answers else reached(drawn.ids, answered, in_order)
        found.append(estimated(strata, answered & set(drawn.ids[:end]), world.wrong, seed))
    return found


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer draws make an interval a little rougher, not wider or narrower.
    monkeypatch.setattr(f"{estimate.__module__}._DRAWS", 2000)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_figures_are_unbiased_and_intervals_cover_whatever_else_was_reviewed(world, plan):
    found = simulated(world, plan)
    for name, true in world.truth.items():
        each = [getattr(one, name) for one in found]
        values = [one.value for one in each]
        error = np.std(values, ddof=1) / np.sqrt(TIMES)
        # Recall is a ratio: its bias is of the order 1/n.
        slack = 0.5 / 30 if name == "recall" else 0.0
        assert abs(np.mean(values) - true) < 3.5 * error + slack, name
        covered = np.mean([one.low <= true <= one.high for one in each])
        # 95% of 300 with a standard deviation of 1.3%.
        assert 0.90 <= covered <= 1.0, (name, covered)


def test_figures_of_an_extended_draw_are_unbiased(world):
    found = []
    for seed in range(TIMES):
        first = draw(world.units, DRAWN // 2, seed)
        strata = extended(world.units, DRAWN // 2, seed, DRAWN, first)
        assert strata is not None
        drawn = in_extended_order(in_random_order(first, seed), strata, seed)
        # All of the first draw, and a part of the added rows in their order.
        counted = set(drawn.ids[: DRAWN - 10])
        found.append(estimated(strata, counted, world.wrong, seed))
    for name, truth in world.truth.items():
        values = [getattr(each, name) for each in found]
        covered = sum(each.low <= truth <= each.high for each in values) / TIMES
        assert abs(statistics.fmean(each.value for each in values) - truth) < 0.02
        assert covered > 0.9


def test_all_answers_of_drawn_rows_together_would_be_biased(world):
    """What the order is for: with every answered drawn row, rows in conflict stand for the others."""
    found = [one.precision for one in simulated(world, PLANS["in turns"], all_answers=True)]
    true = world.truth["precision"]
    assert np.mean([one.value for one in found]) < true - 0.05
    assert np.mean([one.low <= true <= one.high for one in found]) < 0.85


@pytest.mark.parametrize(
    ("answered", "in_order", "end"),
    [
        ("", "", 0),
        ("cd", "", 0),
        ("bde", "", 0),
        ("abcdef", "", 6),
        ("a", "a", 1),
        ("acd", "a", 1),
        ("abcf", "a", 3),
        ("bcd", "abc", 4),
        ("e", "e", 5),
    ],
)
def test_answers_count_up_to_the_next_row_without_one(answered, in_order, end):
    assert reached("abcdef", set(answered), set(in_order)) == end
