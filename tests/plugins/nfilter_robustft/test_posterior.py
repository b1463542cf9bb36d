"""The posterior model compared with simulated data and with Bayes' rule by hand."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from nfilter_robustft.statistics.bounds import rate_range
from nfilter_robustft.statistics.posterior import (
    GRADES,
    Estimate,
    Pattern,
    estimate,
    grade,
    noise_score,
    partition,
)


def simulate(rng, n, options, rho, accuracies, missing=0.0, collision=None):
    """Draw the patterns of n samples; labels are right with probability 1 - rho, wrong answers are uniform."""
    k = options or round(1 + 1 / collision)
    truth = rng.integers(k, size=n)

    def annotate(a):
        return np.where(rng.random(n) < a, truth, (truth + rng.integers(1, k, size=n)) % k)

    columns = [annotate(1 - rho), *(annotate(a) for a in accuracies)]
    counts = Counter()
    for row in zip(*columns, strict=True):
        answers = [str(a) if s == 0 or rng.random() >= missing else None for s, a in enumerate(row)]
        counts[Pattern(partition(answers, {}), options)] += 1
    return counts


def fixed_estimate(rate, accuracies, collision=0.01):
    names = {f"v{i}": a for i, a in enumerate(accuracies)}
    return Estimate(rate, 0.0, 1.0, 1, names, collision, converged=True)


@pytest.mark.parametrize(
    ("options", "rho", "accuracies", "missing"),
    [
        (4, 0.3, (0.7, 0.85), 0.0),
        (4, 0.1, (0.9, 0.6), 0.0),
        (3, 0.5, (0.65, 0.8), 0.0),
        (4, 0.4, (0.7, 0.8, 0.6), 0.2),
        (4, 0.7, (0.8, 0.9), 0.0),
        (2, 0.2, (0.8, 0.9), 0.0),
        # Swapping right and wrong explains the data as well; views are at least as good as guessing.
        (2, 0.8, (0.7, 0.75), 0.0),
    ],
)
def test_parameters_are_recovered(options, rho, accuracies, missing):
    counts = simulate(np.random.default_rng(5), 8000, options, rho, accuracies, missing)
    fitted = estimate(counts, [f"v{i}" for i in range(len(accuracies))])
    assert fitted.converged
    assert fitted.n == 8000
    assert fitted.rate == pytest.approx(rho, abs=0.03)
    assert list(fitted.accuracy.values()) == pytest.approx(accuracies, abs=0.03)
    assert fitted.low < fitted.rate < fitted.high
    assert fitted.high - fitted.low < 0.12


def test_parameters_and_collision_of_open_answers_are_recovered():
    counts = simulate(np.random.default_rng(3), 8000, 0, 0.35, (0.6, 0.75), collision=0.1)
    fitted = estimate(counts, ["v0", "v1"])
    assert fitted.collision == 0.1
    assert fitted.rate == pytest.approx(0.35, abs=0.03)
    assert list(fitted.accuracy.values()) == pytest.approx((0.6, 0.75), abs=0.03)


def test_interval_has_95_percent_coverage():
    hits = 0
    for seed in range(100):
        fitted = estimate(
            simulate(np.random.default_rng(seed), 200, 4, 0.3, (0.75, 0.85)), ["a", "b"]
        )
        hits += fitted.low <= 0.3 <= fitted.high
    # Binomial(100, .95): fewer than 89 has a probability below 1%.
    assert hits >= 89


def test_one_view_gives_a_wide_interval():
    counts = simulate(np.random.default_rng(0), 2000, 4, 0.3, (0.7,))
    disagreement = sum(n for p, n in counts.items() if p.groups == (0, 1)) / 2000
    fitted = estimate(counts, ["v0"])
    # From 0 (the view is wrong in each disagreement) to the share of disagreements (the view is always right).
    assert fitted.low == 0.0
    assert fitted.high == pytest.approx(disagreement, abs=0.06)
    assert fitted.low < fitted.rate < fitted.high


def test_noise_score_is_bayes_rule():
    # Three options, label and two views, enumerated by hand over the truth.
    rho, a, b = 0.4, 0.7, 0.6
    fitted = fixed_estimate(rho, (a, b))

    def chance(right, hit):
        return right if hit else (1 - right) / 2

    for label, one, two in product(range(3), repeat=3):
        by_truth = [
            chance(1 - rho, t == label) * chance(a, t == one) * chance(b, t == two)
            for t in range(3)
        ]
        expected = 1 - by_truth[label] / sum(by_truth)
        pattern = Pattern(partition([str(label), str(one), str(two)], {}), 3)
        assert noise_score(pattern, fitted) == pytest.approx(expected, abs=1e-12)


def test_more_agreement_lowers_the_score():
    fitted = fixed_estimate(0.3, (0.7, 0.7, 0.7))
    by_agreeing = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 2), (0, 1, 2, 3)]
    scores = [noise_score(Pattern(groups, 5), fitted) for groups in by_agreeing]
    assert scores == sorted(scores)
    assert scores[0] < 0.05 < 0.5 < scores[-1]
    # Two views that agree with one another are stronger evidence against the label than two that differ.
    united = noise_score(Pattern((0, 1, 1), 5), fixed_estimate(0.3, (0.7, 0.7)))
    split = noise_score(Pattern((0, 1, 2), 5), fixed_estimate(0.3, (0.7, 0.7)))
    assert united > split


def test_missing_answer_is_no_evidence():
    fitted = fixed_estimate(0.25, (0.8, 0.9))
    assert noise_score(Pattern((0, -1, -1), 4), fitted) == pytest.approx(0.25)
    with_one = noise_score(Pattern((0, 0, -1), 4), fitted)
    assert with_one == pytest.approx(noise_score(Pattern((0, 0), 4), fixed_estimate(0.25, (0.8,))))


def test_graded_shares_are_the_prior():
    # Shares .6 for the label's answer, .3 for the view's own: P(right) = .7*.6 / (.7*.6 + .15*.4), K = 3.
    fitted = fixed_estimate(0.3, (0.5,))
    pattern = Pattern((0, 1), 3, ((grade(0.6), grade(0.3)),))
    assert noise_score(pattern, fitted) == pytest.approx(1 - 0.42 / (0.42 + 0.15 * 0.4), abs=0.005)
    sure = Pattern((0, 0), 3, ((grade(0.9), grade(0.9)),))
    unconfident = Pattern((0, 0), 3, ((grade(0.4), grade(0.4)),))
    assert noise_score(sure, fitted) < noise_score(unconfident, fitted)


def test_frequencies_are_the_prior_without_an_answer():
    # Share .6 for the label's answer and K = 3: P(right) = .7*.6 / (.7*.6 + .15*.4).
    fitted = fixed_estimate(0.3, (0.5,))
    known = Pattern((0, -1), 3, ((grade(0.6), 0),))
    assert noise_score(known, fitted) == pytest.approx(1 - 0.42 / (0.42 + 0.15 * 0.4), abs=1e-9)
    # Without frequencies all answers are equally likely, and the score is the rate.
    assert noise_score(Pattern((0, -1), 3, (None,)), fitted) == pytest.approx(0.3)
    counts = {Pattern((0, -1), 3, ((grade(share), 0),)): 50 for share in (0.1, 0.9)}
    assert estimate(counts, ["v"]) == estimate({Pattern((0, -1), 3, (None,)): 100}, ["v"])


def test_a_graded_view_alone_identifies_the_rate():
    rng = np.random.default_rng(1)
    counts = Counter()
    for _ in range(4000):
        top = rng.uniform(0.5, 0.95)
        shares = np.array([top, (1 - top) * 0.7, (1 - top) * 0.3])
        truth = rng.choice(3, p=shares)
        label = truth if rng.random() < 0.6 else (truth + rng.integers(1, 3)) % 3
        groups = (0, 0) if label == 0 else (0, 1)
        counts[Pattern(groups, 3, ((grade(shares[label]), grade(top)),))] += 1
    fitted = estimate(counts, ["neighbors"])
    assert fitted.rate == pytest.approx(0.4, abs=0.04)
    assert fitted.low <= 0.4 <= fitted.high
    assert fitted.accuracy["neighbors"] == pytest.approx(0.725, abs=0.03)


def test_trusted_labels_determine_the_views_accuracy():
    rng = np.random.default_rng(2)
    counts = simulate(rng, 3000, 4, 0.6, (0.7,))
    alone = estimate(counts, ["v0"])
    for right in rng.random(400) < 0.7:
        counts[Pattern((0, 0) if right else (0, 1), 4, trusted=True)] += 1
    fitted = estimate(counts, ["v0"])
    assert alone.high - alone.low > 0.4
    assert fitted.high - fitted.low < 0.2
    assert fitted.low <= 0.6 <= fitted.high
    assert fitted.n == 3000
    assert noise_score(Pattern((0, 1), 4, trusted=True), fitted) == 0.0


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {Pattern((-1, 0), 4): 5},
        {Pattern((0, 0), 4): 1},
        {Pattern((0, -1), 4): 7},
        {Pattern((0, 1), 2): 3},
        {Pattern((0, 0), 0): 3, Pattern((0, 1), 4): 2},
        {Pattern((0, 0), 4): 10_000},
    ],
)
def test_degenerate_counts_give_finite_figures(counts):
    fitted = estimate(counts, ["v0"])
    assert 0 <= fitted.low <= fitted.rate <= fitted.high <= 1
    for pattern in counts:
        assert 0 <= noise_score(pattern, fitted) <= 1


def shared(of):
    """Draw the patterns of 4,000 labels and two views; the second view repeats 60% of the mistakes of ``of``."""
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=4000)

    def annotate(right):
        return np.where(rng.random(4000) < right, truth, (truth + rng.integers(1, 4, 4000)) % 4)

    label, one, two = annotate(0.8), annotate(0.65), annotate(0.75)
    source = {"view": one, "label": label}[of]
    two = np.where((source != truth) & (rng.random(4000) < 0.6), source, two)
    rows = zip(label, one, two, strict=True)
    return Counter(Pattern(partition([str(a) for a in row], {}), 4) for row in rows)


def test_shared_mistakes_bias_the_independent_model_in_both_directions():
    # As documented in the module; the range of ``bounds`` contains the rate, 0.2, in both cases.
    high, low = (estimate(shared(of), ["one", "two"]) for of in ("view", "label"))
    assert high.low > 0.25
    assert low.high < 0.15
    for of in ("view", "label"):
        allowed = rate_range(shared(of), 2)
        assert allowed.low <= 0.2 <= allowed.high


@pytest.mark.parametrize("options", [2, 4])
def test_a_view_is_never_worse_than_guessing(options):
    # 97% disagreement is noise, not a view that is systematically wrong.
    fitted = estimate({Pattern((0, 0), options): 30, Pattern((0, 1), options): 970}, ["v0"])
    assert fitted.accuracy["v0"] >= 1 / options - 1e-9
    assert fitted.rate > 0.5


def test_zero_views():
    fitted = estimate({Pattern((0,), 4): 9}, [])
    assert fitted.low == 0.0
    assert fitted.high == 1.0


def test_unreadable_label_has_score_one():
    assert noise_score(Pattern((-1, 0), 4), fixed_estimate(0.1, (0.9,))) == 1.0


def test_full_agreement_gives_a_low_rate():
    fitted = estimate({Pattern((0, 0, 0), 4): 500}, ["a", "b"])
    assert fitted.rate < 0.01
    assert fitted.high < 0.02


def test_estimate_json_round_trip():
    fitted = estimate({Pattern((0, 0, -1), 4): 30, Pattern((0, 1, -1), 4): 4}, ["a", "b"])
    assert Estimate.from_json(fitted.to_json()) == fitted
    assert fitted.accuracy["b"] is None


def test_partition_joins_the_first_agreeing_group():
    same = {("1/2", "0.5"): True, ("1/2", "2"): False}
    assert partition(["1/2", "0.5", "2", None, "2"], same) == (0, 0, 1, -1, 1)
    assert partition([None, "a", "a"], {}) == (-1, 0, 0)


def test_grades_are_never_0_or_100():
    assert (grade(0.0), grade(1.0), grade(0.5)) == (1, GRADES - 1, GRADES // 2)
