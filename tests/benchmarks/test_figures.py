"""Statistics against known answers and against the engine's own."""

from __future__ import annotations

import math
import statistics

import pytest

from benchmarks.evidence.calibration import calibration_error
from benchmarks.evidence.cells import Cells, arm_result
from benchmarks.evidence.figures import Evidence, spread
from benchmarks.evidence.findings import best_rule, cheapest_as_good, detection, main, official_rule
from benchmarks.evidence.text import interval, mean_sd, ratio, share, table
from nfilter.metrics.arms import compared

RIGHT = {
    "vanilla": 20,
    "raw": 12,
    "robustft": 28,
    "truth": 32,
    "clean": 24,
    "relabel-all": 36,
    "random": 10,
}


@pytest.fixture
def filled(planned, cells, fakes):
    """Uniform noise at 50% over three seeds; a seed adds its number of right answers."""
    made = planned(percents=(50,), noises=("uniform",))
    by_key = {cell.key: cell for cell in made.cells}
    for (line, *_, seed), key in made.of.items():
        if line in RIGHT:
            right = RIGHT[line] + (seed if line != "vanilla" else 0)
            cells.put(key, fakes.trained(by_key[key], right))
    for key in made.detection.values():
        cells.put(key, fakes.detected(by_key[key]))
    return Evidence(made, cells)


def test_calibration_error_of_two_bins():
    # bin .2: scores .2 .2, one of two wrong: off by |1 - .4| = .6; bin .9: .9 .9 1.0, all wrong: |3 - 2.8| = .2
    wrong, scores = [True, False, True, True, True], [0.2, 0.2, 0.9, 0.9, 1.0]
    assert calibration_error(wrong, scores) == pytest.approx((0.6 + 0.2) / 5)
    assert calibration_error([True, False], [0.5, 0.5]) == 0
    assert calibration_error([], []) is None


def test_spread_leaves_out_what_is_not_there():
    found = spread([1.0, None, 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    assert found.sd == pytest.approx(math.sqrt(2))
    assert found.error == pytest.approx(1.0)
    assert spread([None]) is None
    assert spread([4.0]).error == 0


def test_a_lines_intervals_are_the_engines_of_a_group(filled, planned):
    seeds = []
    for seed in (0, 1, 2):
        results = {}
        for arm, line in (("vanilla",) * 2, ("raw",) * 2, ("cleaned", "robustft"), ("truth",) * 2):
            results[arm] = arm_result(filled.of(line, "uniform", 50, seed), arm)
        seeds.append(results)
    expected = compared(seeds)
    line = filled.line("robustft", "uniform", 50)
    assert line.vanilla == expected["cleaned_minus_vanilla"]
    assert line.raw == expected["cleaned_minus_raw"]
    assert line.accuracy.mean == pytest.approx(29 / 40)
    assert line.accuracy.sd == pytest.approx(1 / 40)
    # vanilla 20, raw 13, RobustFT 29, truth 33 of 40 on average
    assert line.gain == expected["gain"] == pytest.approx((29 - 20) / (33 - 20))
    assert line.recovered == expected["recovered"] == pytest.approx((29 - 13) / (33 - 13))
    assert line.recovered_vanilla == pytest.approx((20 - 13) / (33 - 13))


def test_a_difference_is_paired_by_test_row(filled):
    found = filled.difference("relabel-all", "robustft", "uniform", 50)
    # In each seed 8 of 40 rows differ, always the same way; the next seed's lie one row on. Seeds agree in the mean.
    p = 8 / 40
    assert found.mean == pytest.approx(p)
    rows = [1] + [2] + [3] * 6 + [2] + [1] + [0] * 30
    row = 3 * statistics.variance([value / 3 for value in rows])
    rest = (3 * 8 * (1 - p) - 39 * row) / (2 * 39)
    assert found.error == pytest.approx(math.sqrt((row - rest) / 120))
    assert found.low < p < found.high
    assert found.high - p == pytest.approx(2.0227 * found.error, abs=1e-5)  # t of 39
    assert found.seeds == 3


def test_a_line_without_raw_has_an_accuracy_and_no_interval(planned, cells, fakes):
    made = planned(seeds=(0,), percents=(50,), noises=("uniform",))
    cell = next(cell for cell in made.cells if cell.key == "uniform-50-s0-robustft")
    cells.put(cell.key, fakes.trained(cell, 30))
    line = Evidence(made, cells).line("robustft", "uniform", 50)
    assert line.accuracy.mean == 0.75
    assert line.vanilla is line.raw is line.gain is None
    assert Evidence(made, cells).line("raw", "uniform", 50) is None


def test_accuracy_by_family(filled, fakes):
    of = {f"q{i:02d}": "sums" if i < 20 else "words" for i in range(fakes.questions)}
    found = filled.families("robustft", "uniform", 50, of)
    assert found["sums"].mean == 1.0
    assert found["words"].mean == pytest.approx((8 + 9 + 10) / 3 / 20)


def test_calls_of_a_rule_are_those_of_its_views(filled):
    made = {rule.name: rule for rule in filled.rules("uniform", 50)}
    assert (made["all(base)"].calls, made["all(base)"].tokens) == (1.0, 10.0)
    assert (made["all(reasoning)"].calls, made["all(reasoning)"].tokens) == (1.0, 40.0)
    assert (made["all(neighbors)"].calls, made["all(neighbors)"].whole) == (0.0, 1.0)
    published = official_rule(list(made.values()))
    assert published.name == "all(base+reasoning)"
    assert published.whole == pytest.approx(2 + 2 * 0.5)
    assert made["all(base)"].figures["of_bound"].mean == pytest.approx(0.7 / 0.9)


def test_the_cheapest_of_rules_that_are_as_good(filled):
    made = filled.rules("uniform", 50)
    best = best_rule(made)
    assert best.views == ("base", "reasoning", "neighbors")
    assert cheapest_as_good(made, best).whole == best.whole
    cheap = [rule for rule in made if rule.views in (("base",), ("neighbors",))]
    assert cheapest_as_good(cheap, best_rule(cheap)).views == ("neighbors",)


def test_a_control_that_wins_is_named_and_one_that_does_not_is_not(filled):
    said = main(filled, "uniform", 50)
    wins = [text for text in said if "a control wins" in text]
    assert len(wins) == 1
    assert "relabel-all +.200" in wins[0]
    assert any("below RobustFT: " in text and "clean -.100" in text for text in said)
    assert any("**RobustFT beats vanilla**" in text for text in said)
    assert any("**gain reached**: .692" in text for text in said)


def test_the_contrary_is_said_where_it_holds(planned, cells, fakes):
    made = planned(seeds=(0,), percents=(50,), noises=("uniform",))
    by_key = {cell.key: cell for cell in made.cells}
    for line, right in (
        ("vanilla", 30),
        ("raw", 24),
        ("robustft", 29),
        ("truth", 30),
        ("clean", 29),
    ):
        key = made.of[line, "uniform", 50, 0]
        cells.put(key, fakes.trained(by_key[key], right))
    key = made.detection["uniform", 50, 0]
    cells.put(key, fakes.detected(by_key[key], scale=0.5))
    evidence = Evidence(made, cells)
    said = " ".join(main(evidence, "uniform", 50))
    assert "**not shown to beat vanilla**" in said
    assert "**gain is undefined**" in said
    assert "wins" not in said
    found = " ".join(detection(evidence, "uniform", 50))
    assert "**F1 not reached**" in found
    assert "**flagging all is as good**: .667" in found
    assert "**far from its bound**" in found


def test_figures_of_other_inputs_are_not_there(filled, cells):
    key = filled.plan.of["raw", "uniform", 50, 0]
    assert cells.get(key) is not None
    assert Cells(cells.out, "other inputs").get(key) is None
    assert Cells(cells.out, cells.inputs, {key: "r"}).get(key) == cells.get(key)
    assert Cells(cells.out, cells.inputs, {key: "another recipe"}).get(key) is None


def test_how_numbers_are_written():
    assert [share(x) for x in (0.5, 1.0, 0.0, -0.0004, -0.25, None)] == [
        ".500", "1.000", ".000", ".000", "-.250", "–"
    ]  # fmt: skip
    assert share(0.07, "+") == "+.070"
    assert mean_sd(spread([0.1, 0.3])) == ".200 (.141)"
    assert ratio(0.692, {"low": 0.31, "high": 1.24}) == ".692 [.310, 1.240]"
    assert (ratio(None, None), ratio(0.5, None)) == ("–", ".500 [unbounded]")
    assert interval({"mean": 0.1, "low": -0.02, "high": 0.22}) == "+.100 [-.020, +.220]"
    assert table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x/y |"
