"""The test against chance: known answers, simulated error rates, and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter_robustft.statistics.chance_test import (
    MIN_SHARE,
    beats_frequencies,
    compare_with_chance,
)

STEP = 64


def simulate(rng, n, options, noise, accuracy, favours=None, missing=0.0):
    """Draw noisy labels, a view's answers and their agreement; ``accuracy`` None: answers are independent of the rows."""
    truth = rng.integers(options, size=n)
    flips = rng.integers(1, options, size=n)
    labels = np.where(rng.random(n) < noise, (truth + flips) % options, truth)
    if accuracy is None:
        rest = (1 - (favours or 1 / options)) / (options - 1)
        chances = [favours or 1 / options] + [rest] * (options - 1)
        codes = rng.choice(options, size=n, p=chances)
    else:
        slips = rng.integers(1, options, size=n)
        codes = np.where(rng.random(n) < accuracy, truth, (truth + slips) % options)
    answers = [None if rng.random() < missing else str(each) for each in codes]
    labels = [str(each) for each in labels]
    return labels, answers, [a == b for a, b in zip(labels, answers, strict=True)]


def run_pilot(data, max_rows=1024):
    """Return the verdict and the number of rows of a pilot."""
    labels, answers, agree = data
    for n in range(STEP, max_rows + 1, STEP):
        found = compare_with_chance(labels[:n], answers[:n], agree[:n])
        if found.verdict != "open":
            break
    return found.verdict, n


def share(verdict, pilots):
    return sum(result == verdict for result, _ in pilots) / len(pilots)


@pytest.mark.parametrize(
    ("options", "noise", "accuracy", "most_weak"),
    [(4, 0.7, 0.9, 0.08), (4, 0.5, 0.6, 0.0), (3, 0.5, 0.7, 0.02), (10, 0.7, 0.6, 0.0)],
)
def test_good_view_of_noisy_labels_is_rarely_weak(options, noise, accuracy, most_weak):
    rng = np.random.default_rng(1)
    pilots = [run_pilot(simulate(rng, 1024, options, noise, accuracy)) for _ in range(60)]
    assert share("weak", pilots) <= most_weak


@pytest.mark.parametrize(
    ("options", "favours", "missing", "least_weak", "rows"),
    [(4, None, 0.0, 0.8, 700), (4, 0.9, 0.25, 0.98, 350), (10, None, 0.0, 0.98, 400)],
)
def test_uninformative_views_are_weak(options, favours, missing, least_weak, rows):
    rng = np.random.default_rng(2)
    pilots = [
        run_pilot(simulate(rng, 1024, options, 0.5, None, favours, missing)) for _ in range(40)
    ]
    assert share("useful", pilots) == 0
    assert share("weak", pilots) >= least_weak
    assert np.mean([n for _, n in pilots]) <= rows


def test_constant_view_is_weak_after_one_block():
    rng = np.random.default_rng(3)
    labels, _, _ = simulate(rng, STEP, 4, 0.5, 0.9)
    assert (
        compare_with_chance(labels, ["1"] * STEP, [label == "1" for label in labels]).verdict
        == "weak"
    )
    result = compare_with_chance(labels, [None] * STEP, [False] * STEP)
    assert (result.verdict, result.no_answer, result.chance) == ("weak", 1.0, 0.0)


def test_good_views_are_useful_after_one_block_at_half_noise():
    rng = np.random.default_rng(4)
    assert run_pilot(simulate(rng, 1024, 10, 0.5, 0.9)) == ("useful", STEP)
    assert run_pilot(simulate(rng, 1024, 4, 0.3, 0.9)) == ("useful", STEP)


@pytest.mark.parametrize(("right", "verdict"), [(0, "weak"), (1, "weak"), (40, "useful")])
def test_open_answers_are_compared_with_other_rows(right, verdict):
    labels = [str(number) for number in range(2 * STEP)]
    answers = [label if i < right else f"x{i}" for i, label in enumerate(labels)]
    agree = [a == b for a, b in zip(labels, answers, strict=True)]
    assert compare_with_chance(labels, answers, agree).verdict == verdict
    assert compare_with_chance(labels, answers, agree, chance=0.004).verdict == verdict


def test_answers_that_agree_with_any_label_are_weak():
    """A judge that calls all texts equal also makes them agree with the labels of other rows."""
    labels = [f"text {i}" for i in range(STEP)]
    found = compare_with_chance(labels, ["yes"] * STEP, [True] * STEP, chance=0.99)
    assert (found.verdict, found.agreement) == ("open", 1.0)


def test_view_that_swaps_two_answers_is_weak_and_biased():
    rng = np.random.default_rng(5)
    labels, answers, _ = simulate(rng, 256, 2, 0.1, 0.9)
    swapped = [{"0": "1", "1": "0"}[answer] for answer in answers]
    found = compare_with_chance(
        labels, swapped, [a == b for a, b in zip(labels, swapped, strict=True)]
    )
    assert (found.verdict, found.biased) == ("weak", True)
    chance = simulate(rng, 256, 2, 0.5, None, 0.97)
    assert not compare_with_chance(*chance).biased


def test_gain_is_positive_only_for_useful_views():
    rng = np.random.default_rng(6)
    # Accuracy 90%, noise 30%: s = .6 * .867 = .52, so .64 agree: .64 log(.64 / .25) + .36 log(.12 / .25) nats.
    assert compare_with_chance(*simulate(rng, 1024, 4, 0.3, 0.9)).gain == pytest.approx(
        0.337, abs=0.06
    )
    assert compare_with_chance(*simulate(rng, 1024, 4, 0.3, None)).gain < 0


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.randoms(use_true_random=False))
def test_result_is_invariant_to_names_and_order(seed, options, random):
    rng = np.random.default_rng(seed)
    labels, answers, agree = simulate(rng, STEP, options, 0.4, 0.5, missing=0.2)
    found = compare_with_chance(labels, answers, agree)
    order = list(range(STEP))
    random.shuffle(order)

    def shuffled(values):
        return [values[index] for index in order]

    moved = compare_with_chance(shuffled(labels), shuffled(answers), shuffled(agree))
    assert moved.verdict == found.verdict
    assert moved.gain == pytest.approx(found.gain)
    assert moved.chance == pytest.approx(found.chance)

    def named(values):
        return [None if value is None else f"class {value}" for value in values]

    renamed = compare_with_chance(named(labels), named(answers), agree)
    assert renamed.gain == pytest.approx(found.gain)
    assert 0 <= found.chance <= 1
    assert found.rows == STEP


def test_beats_frequencies_needs_three_nats():
    assert beats_frequencies(1.0, 0.96, 80)
    assert not beats_frequencies(1.0, 0.97, 80)
    assert MIN_SHARE == 0.07


def test_no_rows_raise():
    with pytest.raises(ValueError, match="at least one row"):
        compare_with_chance([], [], [])
