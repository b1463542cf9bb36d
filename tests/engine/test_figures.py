"""The figures of a run's end, against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter.engine.figures import ArmResult, arm_figures, comparisons, group, paired


def arm(name: str, right: str, unanswered: int = 0) -> ArmResult:
    """``"1101"``: the first, second and fourth of four test rows were answered right."""
    return ArmResult(
        name, {str(index): mark == "1" for index, mark in enumerate(right)}, unanswered
    )


def test_one_arm_by_hand() -> None:
    figures = arm_figures(arm("raw", "1110", unanswered=1))
    assert figures == {
        "mean": 0.75, "sd": None, "n": 1, "rows": 4, "standard_error": pytest.approx(math.sqrt(0.75 * 0.25 / 4)),
        "unanswered": 0.25, "training": None,
    }  # fmt: skip


def test_a_paired_difference_by_hand() -> None:
    # Differences 1, 0, -1, 1: mean 1/4, variance ((.75)^2 + (.25)^2 + (1.25)^2 + (.75)^2) / 3 = 2.75 / 3.
    figures = paired(arm("a", "1101"), arm("b", "0110"))
    error = math.sqrt(2.75 / 3 / 4)
    assert figures["mean"] == 0.25
    assert figures["standard_error"] == pytest.approx(error)
    assert figures["low"] == pytest.approx(0.25 - 1.96 * error)
    assert figures["high"] == pytest.approx(0.25 + 1.96 * error)
    assert figures["rows"] == 4


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


def child(seed: int, raw: str, cleaned: str, truth: str, f1: float | None) -> dict[str, Any]:
    results = {
        "raw": arm("raw", raw),
        "cleaned": arm("cleaned", cleaned),
        "truth": arm("truth", truth),
    }
    compared = comparisons(results)
    return {
        "name": "x", "seeds": [seed], "samples": {"read": 10 + seed},
        "detection": {"f1": f1, "note": "same", "flag": True},
        "arms": {name: arm_figures(result) for name, result in results.items()},
        "comparisons": compared,
        **{key: compared[key] for key in ("recovered", "recovered_vanilla", "gain")},
    }  # fmt: skip


def test_seeds_together_by_hand() -> None:
    tail = "0" * 90
    children = [
        child(0, "1111000000" + tail, "1" * 60 + "0" * 40, "1" * 100, 0.5),
        child(1, "1100000000" + tail, "1" * 70 + "0" * 30, "1" * 100, 0.7),
        child(2, "0000000000" + tail, "1" * 80 + "0" * 20, "1" * 100, 0.9),
    ]
    out = group(children, [0, 1, 2])
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
    # cleaned - raw: .56, .68, .80; between seeds sd .12, so .12 / sqrt(3) of the mean.
    difference = out["comparisons"]["cleaned_minus_raw"]
    assert difference["mean"] == pytest.approx(0.68)
    assert difference["seeds"] == 3
    assert difference["standard_error"] == pytest.approx(0.12 / math.sqrt(3))
    assert difference["low"] == pytest.approx(0.68 - 1.96 * 0.12 / math.sqrt(3))
    # recovered is made of the arms' means, not of the children's ratios.
    assert out["recovered"] == out["comparisons"]["recovered"] == pytest.approx(0.68 / 0.98)
    assert out["gain"] is None


def test_the_larger_of_both_standard_errors_counts() -> None:
    # Equal means in each seed: nothing between seeds, so the rows' own error remains.
    same = [child(seed, "0" * 100, "1" * 50 + "0" * 50, "1" * 100, None) for seed in (0, 1)]
    within = math.sqrt(2 * (0.25 / 99)) / 2
    assert group(same, [0, 1])["comparisons"]["cleaned_minus_raw"][
        "standard_error"
    ] == pytest.approx(within)


def test_one_seed_has_no_deviation() -> None:
    out = group([child(0, "0" * 100, "1" * 50 + "0" * 50, "1" * 100, 0.5)], [0])
    assert out["arms"]["cleaned"]["sd"] is None
    assert out["arms"]["cleaned"]["n"] == 1
    assert out["recovered"] == pytest.approx(0.5)


def test_a_figure_that_a_seed_lacks_is_null_and_not_averaged() -> None:
    children = [
        child(0, "0" * 100, "1" * 100, "1" * 100, 0.5),
        child(1, "0" * 100, "1" * 100, "1" * 100, None),
    ]
    out = group(children, [0, 1])
    assert out["detection"]["f1"] is None
    assert "detection.f1" not in out["spread"]


def test_groups_do_not_change_what_they_are_made_of() -> None:
    import copy

    children = [child(seed, "0" * 100, "1" * 50 + "0" * 50, "1" * 100, 0.5) for seed in (0, 1)]
    before = copy.deepcopy(children)
    group(children, [0, 1])
    assert children == before
