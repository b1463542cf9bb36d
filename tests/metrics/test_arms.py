"""The figures of a run's end, against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter.metrics.arms import ArmResult, arm_figures, comparisons, difference, group, paired

T3 = 3.182446  # t quantiles at 95% for 3 and for 2 degrees of freedom, from a printed table
T2 = 4.302653


def arm(name: str, right: str, unanswered: int = 0) -> ArmResult:
    """``"1101"``: the first, second and fourth of four test rows were answered right."""
    return ArmResult(
        name, {str(index): mark == "1" for index, mark in enumerate(right)}, unanswered
    )


def test_one_arm_by_hand() -> None:
    figures = arm_figures(arm("raw", "1110", unanswered=1))
    assert figures == {
        "mean": 0.75, "sd": None, "n": 1, "rows": 4, "standard_error": pytest.approx(math.sqrt(0.75 * 0.25 / 3)),
        "low": 0.0, "high": 1.0, "over": ["rows"], "unanswered": 0.25, "training": None,
    }  # fmt: skip


def test_a_paired_difference_by_hand() -> None:
    # Differences 1, 0, -1, 1: mean 1/4, variance ((.75)^2 + (.25)^2 + (1.25)^2 + (.75)^2) / 3 = 2.75 / 3.
    figures = paired(arm("a", "1101"), arm("b", "0110"))
    error = math.sqrt(2.75 / 3 / 4)
    assert figures["mean"] == 0.25
    assert figures["standard_error"] == pytest.approx(error)
    # four rows have three degrees of freedom; no difference is under -1 or over 1
    assert T3 * error > 1.25
    assert (figures["low"], figures["high"]) == (-1.0, 1.0)
    assert figures["rows"] == 4
    assert figures["over"] == ["rows"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=50))
def test_a_paired_difference_is_what_numpy_says(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (
        ArmResult("x", {str(i): pair[side] for i, pair in enumerate(pairs)}, 0) for side in (0, 1)
    )
    values = np.array(pairs, dtype=float)[:, 0] - np.array(pairs, dtype=float)[:, 1]
    figures = paired(a, b)
    assert figures["mean"] == pytest.approx(values.mean())
    assert figures["standard_error"] == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))


def test_only_rows_that_both_answered_are_compared() -> None:
    a = ArmResult("a", {"x": True, "y": True}, 0)
    b = ArmResult("b", {"y": False, "z": True}, 0)
    assert paired(a, b)["mean"] == 1.0
    assert paired(a, b)["rows"] == 1


def test_recovered_and_gain_by_hand() -> None:
    # Of 100 rows: raw 40, vanilla 50, cleaned 70, truth 90 right, each nested in the next.
    results = {
        name: arm(name, "1" * count + "0" * (100 - count))
        for name, count in {"raw": 40, "vanilla": 50, "cleaned": 70, "truth": 90}.items()
    }
    out = comparisons(results)
    assert out["recovered"] == pytest.approx((70 - 40) / (90 - 40))
    assert out["recovered_vanilla"] == pytest.approx((50 - 40) / (90 - 40))
    assert out["gain"] == pytest.approx((70 - 50) / (90 - 50))
    difference: Any = out["cleaned_minus_raw"]
    assert difference["mean"] == pytest.approx(0.3)


@pytest.mark.parametrize("missing", ["raw", "truth", "cleaned", "vanilla"])
def test_a_ratio_is_null_without_one_of_its_arms(missing: str) -> None:
    results = {name: arm(name, "1" * count + "0" * (100 - count)) for name, count in
               {"raw": 40, "vanilla": 50, "cleaned": 70, "truth": 90}.items() if name != missing}  # fmt: skip
    out = comparisons(results)
    nulls = {name for name in ("recovered", "recovered_vanilla", "gain") if out[name] is None}
    assert nulls == {
        "raw": {"recovered", "recovered_vanilla"},
        "truth": {"recovered", "recovered_vanilla", "gain"},
        "cleaned": {"recovered", "gain"},
        "vanilla": {"recovered_vanilla", "gain"},
    }[missing]  # fmt: skip


def denominator(wins: int, rows: int) -> tuple[float, float]:
    """Mean and standard error of truth - raw where truth wins ``wins`` of ``rows`` and loses none."""
    mean = wins / rows
    return mean, math.sqrt(mean * (1 - mean) / (rows - 1))


@pytest.mark.parametrize(("wins", "known"), [(8, False), (9, True)])
def test_a_ratio_is_null_where_its_denominator_is_under_three_standard_errors(
    wins: int, known: bool
) -> None:
    mean, error = denominator(wins, 100)
    assert (mean > 3 * error) is known  # 8 of 100 is 2.93 standard errors, 9 of 100 is 3.13
    raw, truth = arm("raw", "0" * 100), arm("truth", "1" * wins + "0" * (100 - wins))
    cleaned = arm("cleaned", "1" * 4 + "0" * 96)
    recovered = comparisons({"raw": raw, "truth": truth, "cleaned": cleaned})["recovered"]
    assert recovered == (pytest.approx(4 / wins) if known else None)


def test_a_ratio_is_null_where_truth_is_no_better_than_raw() -> None:
    same = "1" * 50 + "0" * 50
    worse = comparisons(
        {"raw": arm("raw", same), "cleaned": arm("cleaned", same), "truth": arm("truth", "0" * 100)}
    )
    equal = comparisons(
        {"raw": arm("raw", same), "cleaned": arm("cleaned", same), "truth": arm("truth", same)}
    )
    assert (worse["recovered"], equal["recovered"]) == (None, None)


Seed = tuple[dict[str, Any], dict[str, ArmResult]]


def child(seed: int, raw: str, cleaned: str, truth: str, f1: float | None) -> Seed:
    results = {
        "raw": arm("raw", raw),
        "cleaned": arm("cleaned", cleaned),
        "truth": arm("truth", truth),
    }
    compared = comparisons(results)
    metrics = {
        "name": "x", "seeds": [seed], "samples": {"read": 10 + seed},
        "detection": {"f1": f1, "note": "same", "flag": True},
        "arms": {name: arm_figures(result) for name, result in results.items()},
        "comparisons": compared,
        **{key: compared[key] for key in ("recovered", "recovered_vanilla", "gain")},
    }  # fmt: skip
    return metrics, results


def together(children: list[Seed]) -> dict[str, Any]:
    return group(
        [metrics for metrics, _ in children], range(len(children)), [r for _, r in children]
    )


def test_seeds_together_by_hand() -> None:
    tail = "0" * 90
    children = [
        child(0, "1111000000" + tail, "1" * 60 + "0" * 40, "1" * 100, 0.5),
        child(1, "1100000000" + tail, "1" * 70 + "0" * 30, "1" * 100, 0.7),
        child(2, "0000000000" + tail, "1" * 80 + "0" * 20, "1" * 100, 0.9),
    ]
    out = together(children)
    assert out["seeds"] == [0, 1, 2]
    assert out["name"] == "x"
    assert out["samples"]["read"] == 11
    assert out["detection"]["f1"] == pytest.approx(0.7)
    assert out["detection"]["note"] == "same"
    assert out["detection"]["flag"] is True
    assert out["spread"]["detection.f1"] == {
        "mean": pytest.approx(0.7),
        "sd": pytest.approx(0.2),
        "n": 3,
    }
    cleaned = out["arms"]["cleaned"]
    assert (cleaned["mean"], cleaned["n"]) == (pytest.approx(0.7), 3)
    assert cleaned["sd"] == pytest.approx(0.1)
    assert out["arms"]["raw"]["mean"] == pytest.approx(0.02)
    # cleaned - raw: .56, .68, .80 of the same 100 rows, [3, 100] as numpy has it
    d = np.array([[int(a) - int(b) for a, b in zip(*pair, strict=True)] for pair in (
        ("1" * 60 + "0" * 40, "1111" + "0" * 96), ("1" * 70 + "0" * 30, "11" + "0" * 98), ("1" * 80 + "0" * 20, "0" * 100),
    )])  # fmt: skip
    seed = 100 * d.mean(axis=1).var(ddof=1)
    row = 3 * d.mean(axis=0).var(ddof=1)
    rest = ((d - d.mean(axis=1)[:, None] - d.mean(axis=0) + d.mean()) ** 2).sum() / (2 * 99)
    error = math.sqrt((seed + row - rest) / 300)
    difference = out["comparisons"]["cleaned_minus_raw"]
    assert difference["mean"] == pytest.approx(0.68)
    assert (difference["seeds"], difference["rows"]) == (3, 100)
    assert difference["over"] == ["seeds", "rows"]
    assert difference["standard_error"] == pytest.approx(error)
    half = difference["mean"] - difference["low"]
    assert 1.96 * error < half < T2 * error
    assert half > T2 * error / 2
    figures = out["arms"]["cleaned"]
    assert figures["low"] < 0.7 < figures["high"]
    assert figures["standard_error"] > 0.1 / math.sqrt(3)
    # recovered is made of the arms' means, not of the children's ratios.
    assert out["recovered"] == out["comparisons"]["recovered"] == pytest.approx(0.68 / 0.98)
    assert out["gain"] is None
    ends = out["comparisons"]["intervals"]["recovered"]
    assert ends["low"] < 0.68 / 0.98 < ends["high"]
    assert out["comparisons"]["intervals"]["gain"] is None


def test_what_differs_between_seeds_and_between_rows_adds_up() -> None:
    """The squared errors of seeds and rows are summed: the larger of both would be too small."""
    children = [
        child(seed, "0" * 100, "1" * right + "0" * (100 - right), "1" * 100, None)
        for seed, right in enumerate((40, 50, 60))
    ]
    error = together(children)["comparisons"]["cleaned_minus_raw"]["standard_error"]
    between = 0.1 / math.sqrt(3)
    rows = np.array([1.0] * 40 + [2 / 3] * 10 + [1 / 3] * 10 + [0.0] * 40).std(ddof=1) / 10
    assert error > max(between, rows)
    assert error < math.hypot(between, rows)


def test_rows_are_not_new_in_every_seed() -> None:
    """Seeds that answer alike say as much as one: their common rows' error does not shrink with their number."""
    same = [child(seed, "0" * 100, "1" * 50 + "0" * 50, "1" * 100, None) for seed in (0, 1, 2)]
    one = same[0][0]["comparisons"]["cleaned_minus_raw"]
    found = together(same)["comparisons"]["cleaned_minus_raw"]
    assert found["standard_error"] == pytest.approx(math.sqrt(0.25 / 99))
    assert found["low"] == pytest.approx(one["low"])
    assert found["high"] == pytest.approx(one["high"])


def test_seeds_with_test_rows_of_their_own_are_compared_by_their_means() -> None:
    def one(seed: int, right: int) -> tuple[ArmResult, ArmResult]:
        names = [f"{seed}-{row}" for row in range(100)]
        a = ArmResult("a", {name: row < right for row, name in enumerate(names)}, 0)
        return a, ArmResult("b", dict.fromkeys(names, False), 0)

    found = difference([one(0, 40), one(1, 50), one(2, 60)])
    assert found["mean"] == pytest.approx(0.5)
    assert found["standard_error"] == pytest.approx(0.1 / math.sqrt(3))
    assert found["low"] == pytest.approx(0.5 - T2 * 0.1 / math.sqrt(3))
    assert found["over"] == ["seeds with rows of their own"]


def test_rows_that_some_seeds_lack_are_left_out_for_all() -> None:
    pairs = [
        (arm("a", "1" * count + "0" * 10), arm("b", "0" * (count + 10))) for count in (20, 20, 25)
    ]
    assert difference(pairs)["rows"] == 30


def test_arms_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match="quantities, seeds, rows"):
        difference([(ArmResult("a", {"x": True}, 0), ArmResult("b", {"y": True}, 0))])


def test_a_group_with_arms_needs_their_answers() -> None:
    children = [child(seed, "0" * 9, "1" * 9, "1" * 9, None)[0] for seed in (0, 1)]
    with pytest.raises(ValueError, match="2 seeds have arms, and 0 have answers"):
        group(children, [0, 1])


def test_a_ratio_is_shown_without_bounds_where_its_denominators_interval_holds_0() -> None:
    # truth - raw is .3, .5, .7: 4.3 standard errors of its seeds are more than it is, three are not
    children = [
        child(seed, "0" * 1000, "1" * 100 + "0" * 900, "1" * right + "0" * (1000 - right), None)
        for seed, right in enumerate((300, 500, 700))
    ]
    out = together(children)
    below = out["comparisons"]["truth_minus_raw"]
    assert 3 * below["standard_error"] < below["mean"]
    assert (below["low"] < 0) == (out["comparisons"]["intervals"]["recovered"] is None)
    assert out["recovered"] == pytest.approx(0.2)


def test_one_seed_has_no_deviation() -> None:
    out = together([child(0, "0" * 100, "1" * 50 + "0" * 50, "1" * 100, 0.5)])
    assert out["arms"]["cleaned"]["sd"] is None
    assert out["arms"]["cleaned"]["n"] == 1
    assert out["recovered"] == pytest.approx(0.5)


def test_a_figure_that_a_seed_lacks_is_null_and_not_averaged() -> None:
    children = [
        child(0, "0" * 100, "1" * 100, "1" * 100, 0.5),
        child(1, "0" * 100, "1" * 100, "1" * 100, None),
    ]
    out = together(children)
    assert out["detection"]["f1"] is None
    assert "detection.f1" not in out["spread"]


def test_groups_do_not_change_what_they_are_made_of() -> None:
    import copy

    children = [child(seed, "0" * 100, "1" * 50 + "0" * 50, "1" * 100, 0.5) for seed in (0, 1)]
    before = copy.deepcopy(children)
    together(children)
    assert children == before
