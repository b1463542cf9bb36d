"""Whether the data support a probability per label: numbers of rows, views against chance, trusted rows."""

import pytest
from scipy.stats import binomtest

from nfilter import Message, Sample
from nfilter.testing import FakeContext, check_sample_stage, view
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.statistics.posterior import Pattern, estimate, noise_range, noise_score
from nfilter_robustft.statistics.support import lack_of_support


def table(agree, differ, options=2, trusted=0):
    return {
        Pattern((0, 0), options): agree,
        Pattern((0, 1), options): differ,
        Pattern((0, 0), options, trusted=True): trusted,
    }


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (table(17, 2), "19 rows with a readable label are too few"),
        (table(18, 2), None),
        (table(0, 5), "5 rows"),
        ({Pattern((-1, 0), 2): 30, **table(5, 0)}, "5 rows"),
        (table(50, 50), "no view agrees with the labels more often than chance"),
        (table(30, 70), "more often than chance"),
        (table(30, 70, trusted=20), None),
        (table(50, 50, options=4), None),
        (table(25, 75, options=4), "more often than chance"),
        (table(50, 50, options=0), None),
        (table(1, 4, options=0, trusted=16), None),
    ],
)
def test_known_tables(counts, words):
    found = lack_of_support(counts, 1)
    assert found is None if words is None else words in found


@pytest.mark.parametrize("hits", range(50, 75))
def test_one_view_is_tested_against_chance_as_by_scipy(hits):
    interval = binomtest(hits, 100).proportion_ci(0.95, method="wilson")
    assert (lack_of_support(table(hits, 100 - hits), 1) is None) == (interval.low > 0.5)


def test_one_of_several_views_is_enough_and_the_test_is_corrected_for_their_number():
    """Of 100 labels a view has to confirm 60 alone, and 62 as one of three (z 1.96 and 2.39)."""

    def three(hits):
        return {Pattern((0, 0, -1, -1), 2): hits, Pattern((0, 1, -1, -1), 2): 100 - hits}

    assert lack_of_support(table(60, 40), 1) is None
    assert lack_of_support(three(60), 3) is not None
    assert lack_of_support(three(63), 3) is None


def test_the_range_of_a_score_is_that_of_the_rates_that_fit():
    """One view that confirms 60% of 400 labels: no label may be wrong, or 40% with a view that is always right."""
    counts = table(240, 160)
    fitted = estimate(counts, ["v"])
    low, high = noise_range(Pattern((0, 1), 2), fitted)
    assert low == pytest.approx(0.0, abs=1e-6)
    assert high > 0.9
    assert low <= noise_score(Pattern((0, 1), 2), fitted) <= high


def test_the_range_is_narrow_if_the_rate_is_determined():
    """Three independent views of accuracy 0.9, 20% wrong of 20,000: the posterior by hand is within the range."""
    right, wrong, a = 0.8, 0.2, 0.9
    counts = {}
    for pattern in [(0, x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]:
        no = sum(pattern)
        p = right * a ** (3 - no) * (1 - a) ** no + wrong * a**no * (1 - a) ** (3 - no)
        counts[Pattern(pattern, 2)] = round(20_000 * p)
    fitted = estimate(counts, ["u", "v", "w"])
    low, high = noise_range(Pattern((0, 1, 1, 0), 2), fitted)
    by_hand = wrong * a**2 * (1 - a) / (wrong * a**2 * (1 - a) + right * a * (1 - a) ** 2)
    assert low < by_hand < high
    assert high - low < 0.1


def rows(count, contradicted):
    return [
        Sample(
            str(i),
            (Message("user", f"q{i}"), Message("assistant", "A")),
            notes={name: view("B" if i < contradicted else "A") for name in ("u", "v")},
            meta={"options": ["red", "green"]},
        )
        for i in range(count)
    ]


def checked(samples, **config):
    ctx = FakeContext(answers="choice")
    config = CheckConfig(views=["u", "v"], **config)
    return check_sample_stage(Check, config, samples, ctx), ctx


@pytest.mark.types("trusted labels (trusted: COLUMN), more rows or a better view")
def test_few_rows_are_not_decided_by_a_probability_and_20_trusted_rows_settle_it():
    """Two views contradict each of five labels. As independent witnesses they would call all of them wrong."""
    done, ctx = checked(rows(5, 5), vote="probability")
    for each in done:
        note = each.notes["check"]
        assert (note["flagged"], note["interval"]) == (False, [0.0, 1.0])
        assert "not decided, because 5 rows with a readable label are too few" in each.why
    (said,) = {text for kind, text in ctx.log.lines if kind == "warning" and "too few" in text}
    assert "vote: probability flags no label" in said
    trusted = [
        Sample(f"t{i}", s.messages, notes=s.notes, meta={**s.meta, "sure": True})
        for i, s in enumerate(rows(20, 0))
    ]
    done, _ = checked([*rows(5, 5), *trusted], vote="probability", trusted="sure")
    assert [each.notes["check"]["flagged"] for each in done] == [True] * 5 + [False] * 20
    assert done[0].notes["check"]["interval"][0] > 0.5
    assert done[-1].notes["check"]["interval"] == [0.0, 0.0]


def test_an_expected_precision_is_no_better_than_the_probabilities():
    done, _ = checked(rows(5, 3), target_precision=0.6)
    assert not any(each.notes["check"]["flagged"] for each in done)


def test_votes_and_shares_flag_as_before_and_say_that_the_score_is_undetermined():
    for config, flagged in (({"vote": "all"}, 3), ({"budget_of_flags": 0.2}, 1)):
        done, ctx = checked(rows(5, 3), **config)
        assert sum(each.notes["check"]["flagged"] for each in done) == flagged
        assert all(each.notes["check"]["interval"] == [0.0, 1.0] for each in done)
        assert not any("too few" in text for _, text in ctx.log.lines)
