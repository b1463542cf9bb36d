"""Statistics compared with their definitions on random data with ties, with sklearn, and with cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nfilter_metrics.statistics import (
    Counts,
    average_precision,
    brier,
    mcc,
    ratio,
    roc_auc,
    vote_all_bound,
)


def random_classification(seed: int) -> tuple[list[bool], list[float]]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 300))
    positive = rng.random(n) < rng.uniform(0.1, 0.9)
    positive[0], positive[1] = True, False
    scores = np.clip(positive * rng.uniform(0, 0.6) + rng.random(n), 0, 1)
    # from many ties to none
    return positive.tolist(), np.round(scores, int(rng.integers(0, 5))).tolist()


def auc_by_pairs(positive: list[bool], scores: list[float]) -> float:
    """The share of pairs in which the positive has the higher score, ties counting half."""
    good, bad = (
        np.array([s for s, p in zip(scores, positive, strict=True) if p is kind])
        for kind in (True, False)
    )
    wins = (good[:, None] > bad).sum() + (good[:, None] == bad).sum() / 2
    return float(wins / (len(good) * len(bad)))


def precision_by_thresholds(positive: list[bool], scores: list[float]) -> float:
    """The sum of precision times the step of recall over all thresholds, from the highest."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [p for p, s in zip(positive, scores, strict=True) if s >= threshold]
        total += (sum(flagged) - before) / sum(positive) * sum(flagged) / len(flagged)
        before = sum(flagged)
    return total


@pytest.mark.parametrize("seed", range(60))
def test_against_definitions_and_sklearn(seed: int) -> None:
    from sklearn import metrics

    positive, scores = random_classification(seed)
    flagged = [score >= 0.5 for score in scores]
    counts = Counts.of(positive, flagged)
    close = {"rel": 1e-12, "abs": 1e-12}
    assert roc_auc(positive, scores) == pytest.approx(auc_by_pairs(positive, scores), **close)
    assert average_precision(positive, scores) == pytest.approx(
        precision_by_thresholds(positive, scores), **close
    )
    squares = (np.array(scores) - np.array(positive)) ** 2
    assert brier(positive, scores) == pytest.approx(squares.mean(), **close)
    if counts.mcc is not None:
        correlation = np.corrcoef(positive, flagged)[0, 1]
        assert counts.mcc == pytest.approx(correlation, **close)
        assert counts.precision == pytest.approx(metrics.precision_score(positive, flagged))
    assert counts.recall == pytest.approx(metrics.recall_score(positive, flagged))
    assert counts.f1 == pytest.approx(metrics.f1_score(positive, flagged, zero_division=0))
    table = metrics.confusion_matrix(positive, flagged, labels=[False, True]).ravel().tolist()
    assert [counts.tn, counts.fp, counts.fn, counts.tp] == table


def test_roc_auc_by_hand() -> None:
    assert roc_auc([True, False], [0.9, 0.1]) == 1.0
    assert roc_auc([True, False], [0.1, 0.9]) == 0.0
    assert roc_auc([True, False], [0.5, 0.5]) == 0.5
    # pairs: .8 beats .5 and .2; .5 ties with .5 and beats .2 -> 3.5 of 4
    assert roc_auc([True, True, False, False], [0.8, 0.5, 0.5, 0.2]) == 0.875
    for positive in ([True, True], [False], []):
        assert roc_auc(positive, [0.5] * len(positive)) is None


def test_average_precision_by_hand() -> None:
    # hits at ranks 1 and 3: (1 + 2/3) / 2
    assert average_precision([True, False, True], [0.9, 0.8, 0.7]) == pytest.approx(5 / 6)
    # equal scores are one threshold: the precision of flagging everything
    assert average_precision([True, False, False, False], [1.0] * 4) == 0.25
    assert average_precision([False], [0.5]) is None
    assert average_precision([], []) is None


def test_counts_by_hand() -> None:
    counts = Counts(tp=6, fp=2, fn=1, tn=3)
    assert counts.precision == 0.75
    assert counts.recall == 6 / 7
    assert counts.f1 == 0.8
    assert mcc(counts) == pytest.approx((18 - 2) / math.sqrt(8 * 7 * 5 * 4))


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f1"),
    [
        (Counts(0, 0, 0, 0), None, None, None),
        (Counts(0, 0, 0, 5), None, None, None),
        (Counts(0, 3, 0, 5), 0.0, None, None),
        (Counts(0, 0, 4, 5), None, 0.0, 0.0),
        (Counts(4, 0, 0, 0), 1.0, 1.0, 1.0),
    ],
)
def test_undefined_is_none(
    counts: Counts, precision: float | None, recall: float | None, f1: float | None
) -> None:
    assert (counts.precision, counts.recall, counts.f1) == (precision, recall, f1)
    assert counts.mcc is None


def test_brier_and_ratio_by_hand() -> None:
    assert brier([True, False], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)
    assert brier([], []) is None
    assert ratio(1, 4) == 0.25
    assert ratio(0, 0) is None


def test_sequences_of_different_lengths_raise() -> None:
    for function in (roc_auc, average_precision, brier):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            function([True, False], [0.5])
    with pytest.raises(ValueError, match="argument 2 is"):
        Counts.of([True], [])


def test_vote_all_bound() -> None:
    assert vote_all_bound(0.5, 1.0) == 1.0
    assert vote_all_bound(0.5, 0.0) == pytest.approx(2 / 3)  # as good as flagging all
    assert vote_all_bound(0.3, 0.6) == pytest.approx(0.6 / (0.6 + 0.7 * 0.4))
    assert vote_all_bound(0.0, 0.5) is None


@pytest.mark.parametrize("seed", range(40))
def test_f1_never_exceeds_the_vote_all_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 400
    wrong = rng.random(n) < rng.uniform(0.05, 0.95)
    right_view = rng.random(n) < rng.uniform(0, 1)
    wrong[0], wrong[1] = True, False
    # Best case: every wrong label is flagged.
    flagged = wrong | ~right_view | (rng.random(n) < 0.1)
    accuracy = float(right_view[~wrong].mean())
    bound = vote_all_bound(float(wrong.mean()), accuracy)
    f1 = Counts.of(wrong.tolist(), flagged.tolist()).f1
    assert f1 is not None
    assert bound is not None
    assert f1 <= bound + 1e-12
    exact = Counts.of(wrong.tolist(), (wrong | ~right_view).tolist()).f1
    assert exact == pytest.approx(bound)
