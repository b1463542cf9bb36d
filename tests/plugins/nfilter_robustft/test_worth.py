"""When a view is worth its calls: known answers, error rates by simulation, and what the figure does not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter_robustft.worth import LEAST, foretells, worth

STEP = 64


def drawn(rng, n, options, noise, accuracy, favours=None, silent=0.0):
    """Noisy labels, a view's answers and where they agree. ``accuracy`` None: the view knows nothing of the rows."""
    truth = rng.integers(options, size=n)
    flips = rng.integers(1, options, size=n)
    labels = np.where(rng.random(n) < noise, (truth + flips) % options, truth)
    if accuracy is None:
        rest = (1 - (favours or 1 / options)) / (options - 1)
        chances = [favours or 1 / options] + [rest] * (options - 1)
        said = rng.choice(options, size=n, p=chances)
    else:
        slips = rng.integers(1, options, size=n)
        said = np.where(rng.random(n) < accuracy, truth, (truth + slips) % options)
    answers = [None if rng.random() < silent else str(each) for each in said]
    labels = [str(each) for each in labels]
    return labels, answers, [a == b for a, b in zip(labels, answers, strict=True)]


def course(data, most=1024):
    """The verdict of a pilot, and after how many rows."""
    labels, answers, agree = data
    for n in range(STEP, most + 1, STEP):
        found = worth(labels[:n], answers[:n], agree[:n])
        if found.verdict != "open":
            break
    return found.verdict, n


def share(verdict, courses):
    return sum(found == verdict for found, _ in courses) / len(courses)


@pytest.mark.parametrize(
    ("options", "noise", "accuracy", "most_weak"),
    [(4, 0.7, 0.9, 0.08), (4, 0.5, 0.6, 0.0), (3, 0.5, 0.7, 0.02), (10, 0.7, 0.6, 0.0)],
)
def test_a_good_view_of_very_noisy_labels_is_rarely_called_weak(
    options, noise, accuracy, most_weak
):
    rng = np.random.default_rng(1)
    courses = [course(drawn(rng, 1024, options, noise, accuracy)) for _ in range(60)]
    assert share("weak", courses) <= most_weak


@pytest.mark.parametrize(
    ("options", "favours", "silent", "least_weak", "rows"),
    [(4, None, 0.0, 0.8, 700), (4, 0.9, 0.25, 0.98, 350), (10, None, 0.0, 0.98, 400)],
)
def test_views_that_know_nothing_are_found(options, favours, silent, least_weak, rows):
    rng = np.random.default_rng(2)
    courses = [course(drawn(rng, 1024, options, 0.5, None, favours, silent)) for _ in range(40)]
    assert share("useful", courses) == 0
    assert share("weak", courses) >= least_weak
    assert np.mean([n for _, n in courses]) <= rows


def test_a_view_that_says_one_thing_or_nothing_is_weak_after_one_look():
    rng = np.random.default_rng(3)
    labels, _, _ = drawn(rng, STEP, 4, 0.5, 0.9)
    assert worth(labels, ["1"] * STEP, [label == "1" for label in labels]).verdict == "weak"
    silent = worth(labels, [None] * STEP, [False] * STEP)
    assert (silent.verdict, silent.no_answer, silent.chance) == ("weak", 1.0, 0.0)


def test_good_views_are_seen_at_the_first_look_where_half_of_the_labels_are_wrong():
    rng = np.random.default_rng(4)
    assert course(drawn(rng, 1024, 10, 0.5, 0.9)) == ("useful", STEP)
    assert course(drawn(rng, 1024, 4, 0.3, 0.9)) == ("useful", STEP)


@pytest.mark.parametrize(("right", "verdict"), [(0, "weak"), (1, "weak"), (40, "useful")])
def test_open_answers_count_by_agreement_beyond_that_of_other_rows(right, verdict):
    labels = [str(number) for number in range(2 * STEP)]
    answers = [label if i < right else f"x{i}" for i, label in enumerate(labels)]
    agree = [a == b for a, b in zip(labels, answers, strict=True)]
    assert worth(labels, answers, agree).verdict == verdict
    assert worth(labels, answers, agree, chance=0.004).verdict == verdict


def test_answers_that_agree_with_any_label_say_nothing():
    """A judge that calls all texts the same makes all agree, with other rows' labels too."""
    labels = [f"text {i}" for i in range(STEP)]
    found = worth(labels, ["yes"] * STEP, [True] * STEP, chance=0.99)
    assert (found.verdict, found.agreement) == ("open", 1.0)


def test_a_view_that_swaps_two_answers_is_biased_and_weak():
    rng = np.random.default_rng(5)
    labels, answers, _ = drawn(rng, 256, 2, 0.1, 0.9)
    swapped = [{"0": "1", "1": "0"}[answer] for answer in answers]
    found = worth(labels, swapped, [a == b for a, b in zip(labels, swapped, strict=True)])
    assert (found.verdict, found.biased) == ("weak", True)
    chance = drawn(rng, 256, 2, 0.5, None, 0.97)
    assert not worth(*chance).biased


def test_a_useful_view_saves_nats_and_a_weak_one_none():
    rng = np.random.default_rng(6)
    # 90% right, 30% of the labels wrong: s = .6 * .867 = .52, so .64 agree: .64 log(.64 / .25) + .36 log(.12 / .25) nats.
    assert worth(*drawn(rng, 1024, 4, 0.3, 0.9)).gain == pytest.approx(0.337, abs=0.06)
    assert worth(*drawn(rng, 1024, 4, 0.3, None)).gain < 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.randoms(use_true_random=False))
def test_neither_names_nor_order_of_closed_answers_matter(seed, options, random):
    rng = np.random.default_rng(seed)
    labels, answers, agree = drawn(rng, STEP, options, 0.4, 0.5, silent=0.2)
    found = worth(labels, answers, agree)
    order = list(range(STEP))
    random.shuffle(order)

    def again(values):
        return [values[place] for place in order]

    moved = worth(again(labels), again(answers), again(agree))
    assert moved.verdict == found.verdict
    assert moved.gain == pytest.approx(found.gain)
    assert moved.chance == pytest.approx(found.chance)

    def named(values):
        return [None if value is None else f"class {value}" for value in values]

    renamed = worth(named(labels), named(answers), agree)
    assert renamed.gain == pytest.approx(found.gain)
    assert 0 <= found.chance <= 1
    assert found.rows == STEP


def test_three_nats_over_all_labels_are_what_foretells():
    assert foretells(1.0, 0.96, 80)
    assert not foretells(1.0, 0.97, 80)
    assert LEAST == 0.07


def test_without_rows_there_is_no_judgement():
    with pytest.raises(ValueError, match="one row at least"):
        worth([], [], [])
