"""Cutoffs of the ranking by noise score: budgets, target precisions, and calibration by trusted rows."""

import random

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter import Message, Sample
from nfilter.testing import FakeContext, check_sample_stage, view
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.statistics.cutoff import Cutoff, best_precision, choose_cutoff

VIEWS = ["one", "two"]
OPTIONS = ["red", "green", "blue", "black"]


def test_budget_is_filled_with_mean_score_as_precision():
    assert choose_cutoff([0.9, 0.5, 0.1], [], 0.0, budget=2) == Cutoff(2, 3, pytest.approx(0.7))
    assert choose_cutoff([0.9, 0.5], [], 0.0, budget=9).flagged == 2
    assert choose_cutoff([0.9, 0.5], [], 0.0, budget=0) == Cutoff(0, 2, None)
    assert choose_cutoff([], [], 0.0, target=0.8) == Cutoff(0, 0, None)


@pytest.mark.parametrize(
    ("target", "flagged"), [(0.95, 0), (0.9, 1), (0.7, 2), (0.69, 2), (0.5, 3), (0.1, 3)]
)
def test_target_chooses_the_largest_cutoff(target, flagged):
    assert choose_cutoff([0.9, 0.5, 0.1], [], 0.0, target=target).flagged == flagged
    assert best_precision([0.9, 0.5, 0.1], [], 0.0) == pytest.approx(0.9)


def test_trusted_rows_calibrate_the_precision():
    # 98 trusted labels, 9 of them with the high score: of 1,000 labels at a rate of at least 0.1,
    # 900 * (9 + 1) / (98 + 2) = 90 right ones are among the 200 with the high score.
    scores, right = [0.99] * 200 + [0.1] * 800, [0.99] * 9 + [0.1] * 89
    found = choose_cutoff(scores, right, 0.1, budget=200)
    assert found.precision == pytest.approx(1 - 90 / 200)
    assert found.trusted == 98
    # Labels with equal scores are unordered, so half of them contain half of the right ones.
    assert choose_cutoff(scores, right, 0.1, budget=100).precision == pytest.approx(1 - 90 / 200)
    assert choose_cutoff(scores, right, 0.1, target=0.5).flagged == pytest.approx(216, abs=3)
    assert choose_cutoff(scores, right, 0.1, target=0.6).flagged == 0


def rows_of(n, rho, trusted=0.0, shared=0.0, seed=0):
    """Labels and two views that err on 10%; in a share ``shared`` of the rows, both have the same answer."""
    rng = random.Random(seed)
    rows, wrong = [], {}
    for i in range(n):
        truth = rng.choice("ABCD")
        others = [x for x in "ABCD" if x != truth]
        label = truth if rng.random() < 1 - rho else rng.choice(others)
        answers = [truth if rng.random() < 0.9 else rng.choice(others) for _ in VIEWS]
        if rng.random() < shared:
            answers = [answers[0], answers[0]]
        sure = label == truth and rng.random() < trusted
        messages = (Message("user", f"question {i}"), Message("assistant", label))
        notes = {name: view(answer) for name, answer in zip(VIEWS, answers, strict=True)}
        meta = {"options": OPTIONS, "sure": sure}
        rows.append(Sample(f"s{i}", messages, notes=notes, meta=meta))
        wrong[f"s{i}"] = label != truth
    return rows, wrong


def run(rows, **config):
    ctx = FakeContext(answers="choice")
    stage = Check(CheckConfig(views=VIEWS, **config))
    state = stage.fit(iter(rows), ctx)
    out = stage.process(rows, state, ctx)
    return out, state, ctx, {s.id for s in out if s.notes["check"]["flagged"]}


@pytest.mark.parametrize(("budget", "flagged"), [("5%", 50), (0.05, 50), ("0.5%", 5), (1.0, 1000)])
def test_budget_flags_the_top_of_the_ranking(budget, flagged):
    rows, wrong = rows_of(1000, 0.04)
    out, state, _, chosen = run(rows, budget_of_flags=budget)
    assert len(chosen) == flagged
    assert state.values["report"]["cut"]["flagged"] == flagged
    scores = {s.id: s.notes["check"]["noise_score"] for s in out}
    left = [score for name, score in scores.items() if name not in chosen]
    assert min(scores[name] for name in chosen) >= max(left, default=0)
    if flagged == 50:
        assert sum(wrong[name] for name in chosen) / 50 > 0.5
    first = next(s for s in out if s.id in chosen)
    assert first.notes["check"]["vote"] == "probability"
    assert f"flags the first {flagged}" in first.why


def test_cutoff_is_more_precise_than_votes_at_low_noise():
    rows, wrong = rows_of(2000, 0.04)
    *_, voted = run(rows, vote="all")
    *_, chosen = run(rows, target_precision=0.8)
    precision = [np.mean([wrong[name] for name in each]) for each in (voted, chosen)]
    assert precision[0] < 0.3
    assert precision[1] > 0.7
    assert sum(wrong[name] for name in chosen) / sum(wrong.values()) > 0.6


@pytest.mark.parametrize("seed", range(3))
def test_trusted_rows_keep_the_target_if_views_share_mistakes(seed):
    rows, wrong = rows_of(3000, 0.1, trusted=0.3, shared=0.4, seed=seed)
    untrusted = [
        Sample(s.id, s.messages, notes=s.notes, meta={**s.meta, "sure": False}) for s in rows
    ]
    _, state, ctx, chosen = run(rows, target_precision=0.6, trusted="sure")
    report = state.values["report"]["cut"]
    assert report["trusted"] > 500
    assert chosen
    assert np.mean([wrong[name] for name in chosen]) > 0.55
    assert any("calibrated on" in text for _, text in ctx.log.lines)
    assert not any(s.meta["sure"] for s in rows if s.id in chosen)
    # Without trusted rows, the expected precision is too high, and the log names its assumption.
    _, state, ctx, flagged = run(untrusted, target_precision=0.6)
    expected = state.values["report"]["cut"]["expected_precision"]
    assert expected > np.mean([wrong[name] for name in flagged])
    assert any("if label and views err independently" in text for _, text in ctx.log.lines)


def test_unreachable_precision_flags_nothing_and_warns():
    rows, _ = rows_of(300, 0.02)
    _, state, ctx, chosen = run(rows, target_precision=0.999999)
    assert not chosen
    assert state.values["report"]["cut"]["expected_precision"] is None
    assert any(
        "no label is flagged; the highest expected precision" in text for _, text in ctx.log.lines
    )


def test_confident_contradictions_rank_first_among_equal_scores():
    rows = []
    for i in range(20):
        messages = (Message("user", f"q {i}"), Message("assistant", "A"))
        notes = {name: view("B", nll=0.1 + i, tokens=1) for name in VIEWS}
        rows.append(Sample(f"s{i}", messages, notes=notes, meta={"options": OPTIONS}))
    *_, chosen = run(rows[::-1], budget_of_flags="25%")
    assert chosen == {f"s{i}" for i in range(5)}


def test_stage_conforms_and_unreadable_labels_rank_first():
    rows, _ = rows_of(100, 0.1)
    unread = Sample(
        "odd", (rows[0].messages[0], Message("assistant", "no idea")), notes=rows[0].notes
    )
    ctx = FakeContext(answers="choice")
    config = CheckConfig(views=VIEWS, budget_of_flags="1%")
    out = check_sample_stage(Check, config, [*rows, unread], ctx)
    assert [s.id for s in out if s.notes["check"]["flagged"]] == ["odd"]
    only = check_sample_stage(Check, CheckConfig(views=VIEWS, budget_of_flags=1.0), [unread], ctx)
    assert only[0].notes["check"]["flagged"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"target_precision": 1.0}, "less than 1"),
        ({"target_precision": 0}, "greater than 0"),
        ({"budget_of_flags": 5}, "write 5% or 0.05"),
        ({"budget_of_flags": "5"}, "write 0.05 or 5%"),
        ({"budget_of_flags": "many%"}, "write 0.05 or 5%"),
        ({"budget_of_flags": "150%"}, "write 0.05 or 5%"),
        ({"budget_of_flags": 0}, "greater than 0"),
        ({"budget_of_flags": 0.1, "target_precision": 0.8}, "leave out one of the two"),
        ({"budget_of_flags": 0.1, "vote": "any"}, "so does vote: any"),
        ({"target_precision": 0.8, "vote": "probability", "threshold": 0.7}, "so does threshold"),
    ],
)
def test_contradicting_settings_raise(bad, words):
    with pytest.raises(ValidationError, match=words):
        CheckConfig(views=VIEWS, **bad)


def test_config_round_trip():
    for values in ({"budget_of_flags": "5%"}, {"target_precision": 0.8}, {}):
        config = CheckConfig(views=VIEWS, **values)
        assert CheckConfig.model_validate(config.model_dump(mode="json")) == config
    assert CheckConfig(views=VIEWS, budget_of_flags="5%").budget_of_flags == 0.05
