"""Neighbours: votes against a plain loop, calibration against scikit-learn, and silence where there is no signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nfilter import Sample, View
from nfilter.testing import FakeEncoder, check_sample_stage
from nfilter_pairs.neighbours import Neighbours, NeighboursConfig, _fit_beta, _votes


def test_votes_are_the_sum_over_the_nearest_pairs_with_other_prompts() -> None:
    rng = np.random.default_rng(0)
    n, k = 40, 5

    def unit(a: np.ndarray) -> np.ndarray:
        return np.asarray(a / np.linalg.norm(a, axis=1, keepdims=True), dtype=np.float32)

    x, d = unit(rng.normal(size=(n, 6))), unit(rng.normal(size=(n, 7)))
    x[1] = x[0]
    y = rng.choice([-1.0, 1.0], n)
    prompts = np.arange(n)
    prompts[1] = 0
    voters = np.arange(0, n, 2)
    votes = _votes(x, d, y, prompts, voters, (2, k))[k]
    for i in range(n):
        others = [j for j in voters if prompts[j] != prompts[i]]
        near = sorted(others, key=lambda j: -float(x[i] @ x[j]))[:k]
        wanted = sum(max(0.0, float(x[i] @ x[j])) * float(d[i] @ d[j]) * y[j] for j in near)
        assert votes[i] == pytest.approx(wanted, abs=1e-5)


def test_beta_is_that_of_a_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    v = rng.normal(size=2000)
    y = np.where(rng.random(2000) < 1 / (1 + np.exp(-1.7 * v)), 1, -1)
    beta, gain = _fit_beta(v * y)
    theirs = LogisticRegression(C=1e6, fit_intercept=False).fit(v[:, None], y)
    assert beta == pytest.approx(float(theirs.coef_[0, 0]), rel=1e-3)
    likelihood = -np.log1p(np.exp(-beta * v * y)).sum()
    assert gain == pytest.approx(float(likelihood) + 2000 * np.log(2))


COLOURS = ("red", "green", "blue", "white")


def facts(pair: Any, n: int, flips: set[int]) -> list[Sample]:
    """Each word has a colour, which the pairs with the same word share."""
    out = []
    for at in range(n):
        word = at % 4
        wrong = COLOURS[(word + 1 + at // 4 % 3) % 4]
        sample = pair(str(at), f"word{word} word{word} number{at}", COLOURS[word], wrong)
        out.append(sample.swap("x") if at in flips else sample)
    return out


def run(samples: list[Sample], context: Any, **config: Any) -> list[View]:
    ctx = context(encoder=FakeEncoder())
    done = check_sample_stage(Neighbours, NeighboursConfig(**config), samples, ctx)
    found = [View.of(sample, "neighbours") for sample in done]
    return [view for view in found if view is not None]


def test_neighbours_find_the_pairs_that_contradict_them(pair: Any, context: Any) -> None:
    rng = np.random.default_rng(3)
    flips = {int(at) for at in rng.choice(120, 24, replace=False)}
    samples = facts(pair, 120, flips)
    found = run(samples, context)
    right = {
        sample.id: "A" if COLOURS[int(sample.id) % 4] == min(sample.response, sample.rejected.content) else "B"
        for sample in samples
        if sample.rejected is not None
    }  # fmt: skip
    answered = [
        (view.answer, right[sample.id]) for view, sample in zip(found, samples, strict=True)
    ]
    known = [(answer, truth) for answer, truth in answered if answer is not None]
    assert len(known) > 100
    assert sum(answer == truth for answer, truth in known) / len(known) > 0.95
    assert all(view.more["calibrated"] is True for view in found if view.answer)


def test_random_preferences_give_no_view(pair: Any, context: Any) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for at in range(60):
        texts = [f"x{at}", f"y{at}"]
        rng.shuffle(texts)
        rows.append(pair(str(at), f"q{at}", *texts))
    found = run(rows, context)
    assert all(view.answer is None and view.weak for view in found)


def test_no_more_pairs_vote_than_the_setting_says(pair: Any, context: Any) -> None:
    samples = facts(pair, 120, set())
    found = run(samples, context, reference=40, k=5)
    assert sum(view.answer is not None for view in found) > 60


def test_no_pairs_are_no_votes(context: Any) -> None:
    assert run([], context) == []
