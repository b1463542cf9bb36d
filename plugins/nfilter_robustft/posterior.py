"""How likely a label is wrong, given who agrees with whom (Dawid & Skene 1979, one parameter an annotator).

Each sample has a hidden true answer. The label is right with probability 1 - rho, view v with probability a_v, each
by itself; a wrong answer falls on any given other wrong one with chance c (1/(K-1) for K options). A view that
gives calibrated shares of votes (neighbours) has no parameter: its shares are the prior of the true answer. Only
patterns of agreement matter, so a dataset of any size is a short table of counts.

Real views share mistakes. Where they share them with each other, the model takes that for agreement on the truth and
rho is too high; where they share them with the label, it takes that for right labels and rho is too low (both are
measured in the tests). Its interval knows neither. So rho of this model serves to rank labels; the noise rate that is
reported is the range of ``bounds``, which does not need independence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import JSON

Float64Array = npt.NDArray[np.float64]

GRADES = 100
_COLLISIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_OPEN = 0.01  # collision chance of open answers where it cannot be estimated
_STARTS = tuple((rate, accuracy) for rate in (0.1, 0.4, 0.7) for accuracy in (0.55, 0.9))
_TOP = 0.99
_FLAT = 0.2
_HALF_CHI2 = 1.9207  # half the 95% point of chi-squared with one degree of freedom
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Pattern:
    """Who agrees with whom in one sample.

    ``groups`` numbers the distinct answers of (label, view 1, view 2, ...) in order of appearance, so the label's
    is 0; -1 is no answer. ``options`` is K, or 0 for open answers. ``grades`` holds, a view, None or the shares
    that a graded view gives to the label's answer and to its own, in steps of 1/100; where it has no answer, the first is
    how frequent the label's answer is, and counts in the noise score alone. ``trusted``: the label is known to be right.
    """

    groups: tuple[int, ...]
    options: int = 0
    grades: tuple[tuple[int, int] | None, ...] = ()
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """The fitted model. ``low`` and ``high`` bound rho at 95% by profile likelihood; ``n`` labels were counted.

    The interval takes the shares of graded views as they are; how sure those are is for their own stage to say.
    """

    rate: float
    low: float
    high: float
    n: int
    accuracy: Mapping[str, float | None]
    collision: float
    converged: bool

    def to_json(self) -> dict[str, JSON]:
        """Plain values for a stage's state."""
        return {
            "rate": self.rate,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "accuracy": dict(self.accuracy),
            "collision": self.collision,
            "converged": self.converged,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Estimate:
        """The inverse of ``to_json``."""
        return cls(**values)


def grade(share: float) -> int:
    """A share in [0, 1] in steps of 1/100, never 0 or 1: votes are not certainty."""
    return min(GRADES - 1, max(1, round(share * GRADES)))


def partition(
    answers: Sequence[str | None], same: Mapping[tuple[str, str], bool]
) -> tuple[int, ...]:
    """Group numbers of ``answers``: each joins the first group whose first answer it agrees with; None is -1.

    ``same`` says of pairs of different answers, the earlier first, whether they agree; equal ones do.
    """
    heads: list[str] = []
    groups = []
    for answer in answers:
        if answer is None:
            groups.append(-1)
            continue
        for number, head in enumerate(heads):
            if head == answer or same.get((head, answer), False):
                groups.append(number)
                break
        else:
            groups.append(len(heads))
            heads.append(answer)
    return tuple(groups)


def estimate(
    counts: Mapping[Pattern, int], views: Sequence[str], collision: float | None = None
) -> Estimate:
    """Fit rho and the views' accuracies to ``counts`` by expectation maximisation from several starts.

    ``collision`` fixes the chance c for open answers; None estimates it where two views or more allow it.
    Patterns without a label's answer are left out. With one ungraded view rho cannot be told from the view's own
    mistakes: the interval is then wide.
    """
    used: Counter[Pattern] = Counter()
    for pattern, count in counts.items():
        if pattern.groups[0] == 0 and count > 0:
            used[_without_frequencies(pattern)] += count
    n = sum(m for pattern, m in used.items() if not pattern.trusted)
    if not n:
        chance = _OPEN if collision is None else collision
        return Estimate(0.0, 0.0, 1.0, 0, dict.fromkeys(views), chance, converged=True)
    patterns = sorted(used, key=repr)
    weight = np.array([used[pattern] for pattern in patterns], dtype=np.float64)
    open_answers = any(not pattern.options for pattern in patterns)
    chances: Sequence[float] = (_OPEN if collision is None else collision,)
    if collision is None and open_answers and len(views) > 1:
        chances = _COLLISIONS
    best: tuple[_Fit, _Table] | None = None
    for chance in chances:
        table = _Table.of(patterns, chance)
        for rate, accuracy in _STARTS:
            fit = _maximise(table, weight, rate, np.full(len(views), accuracy))
            if best is None or fit.loss < best[0].loss - 1e-9:
                best = (fit, table)
    assert best is not None
    fit, table = best
    low = _bound(table, weight, fit, 0.0)
    high = _bound(table, weight, fit, _TOP)
    # Where the likelihood is flat, any rate between explains the data as well; the middle errs least.
    middle = _maximise(table, weight, (low + high) / 2, fit.accuracy, fixed=True)
    if high - low > _FLAT and middle.loss < fit.loss + 0.05:
        fit = middle
    graded = _graded_accuracy(patterns, weight, table.joint(fit.rate, fit.accuracy))
    accuracies = {
        view: float(a) if table.answered[:, i + 1].any() else graded.get(i)
        for i, (view, a) in enumerate(zip(views, fit.accuracy, strict=True))
    }
    return Estimate(fit.rate, low, high, n, accuracies, table.chance, fit.converged)


def _without_frequencies(pattern: Pattern) -> Pattern:
    """``pattern`` for the fit: frequencies come from the labels themselves, and would explain any of them as right."""
    grades = tuple(
        None if group < 0 else graded
        for graded, group in zip(pattern.grades, pattern.groups[1:], strict=bool(pattern.grades))
    )
    return replace(pattern, grades=grades)


def _graded_accuracy(
    patterns: Sequence[Pattern], weight: Float64Array, joint: Float64Array
) -> dict[int, float]:
    """By number, the graded views' expected accuracy; it is no parameter, but follows from the posterior."""
    hits: defaultdict[int, float] = defaultdict(float)
    total: defaultdict[int, float] = defaultdict(float)
    posterior = joint / np.maximum(joint.sum(axis=1, keepdims=True), _TINY)
    for i, pattern in enumerate(patterns):
        for v, graded in enumerate(pattern.grades):
            if graded is not None and pattern.groups[v + 1] >= 0:
                hits[v] += weight[i] * posterior[i, pattern.groups[v + 1]]
                total[v] += weight[i]
    return {v: float(hits[v] / total[v]) for v in total}


def noise_score(pattern: Pattern, fitted: Estimate) -> float:
    """P(label wrong | pattern): 1 where the label has no answer, 0 where it is trusted."""
    if pattern.trusted:
        return 0.0
    if pattern.groups[0] != 0:
        return 1.0
    table = _Table.of([pattern], fitted.collision)
    accuracy = np.array([0.5 if a is None else a for a in fitted.accuracy.values()])
    joint = table.joint(fitted.rate, accuracy)[0]
    return float(np.clip(1.0 - joint[0] / max(joint.sum(), _TINY), 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class _Fit:
    rate: float
    accuracy: Float64Array
    loss: float
    converged: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """P patterns against H hypotheses (the true answer is group h, or, last, none of those seen).

    ``base`` [P, H]: prior of the hypothesis times graded evidence. ``match`` [P, H, S] and ``answered`` [P, S]
    for S annotators, the label first. ``wrong`` [P]: chance of one given wrong answer. ``floor`` [S-1] keeps
    a view's accuracy at or above guessing, without which all could be right or wrong together.
    """

    base: Float64Array
    match: npt.NDArray[np.bool_]
    answered: npt.NDArray[np.bool_]
    wrong: Float64Array
    trusted: npt.NDArray[np.bool_]
    floor: Float64Array
    chance: float

    @classmethod
    def of(cls, patterns: Sequence[Pattern], chance: float) -> _Table:
        size, annotators = len(patterns), len(patterns[0].groups)
        hypotheses = max(max(pattern.groups) for pattern in patterns) + 2
        base = np.zeros((size, hypotheses))
        match = np.zeros((size, hypotheses, annotators), dtype=bool)
        answered = np.zeros((size, annotators), dtype=bool)
        wrong = np.empty(size)
        for i, pattern in enumerate(patterns):
            seen = max(pattern.groups) + 1
            k = float(pattern.options) if pattern.options > 1 else 1.0 + 1.0 / chance
            wrong[i] = 1.0 / (k - 1.0)
            # A pattern stands for every choice of K answers for its groups; it counts when c is estimated.
            ways = np.prod([max(k - j, 1e-3) for j in range(seen)]) / k
            base[i, :seen] = ways
            base[i, -1] = ways * max(k - seen, 0.0)
            for s, group in enumerate(pattern.groups):
                graded = pattern.grades[s - 1] if s and pattern.grades else None
                if graded is not None:
                    base[i] *= _prior(graded, group, seen, k, hypotheses)
                elif group >= 0 and not (s == 0 and pattern.trusted):
                    answered[i, s] = True
                    match[i, group, s] = True
            if pattern.trusted:
                base[i, 1:] = 0.0
        guess = np.where(answered, wrong[:, None] / (1 + wrong[:, None]), 1.0).min(axis=0)
        trusted = np.array([pattern.trusted for pattern in patterns])
        floor = np.minimum(guess[1:], 0.5)
        return cls(base, match, answered, wrong, trusted, floor, chance)

    def joint(self, rate: float, accuracy: Float64Array) -> Float64Array:
        """P(pattern, hypothesis) [P, H], up to a factor a pattern."""
        right = np.concatenate([[1.0 - rate], accuracy])
        missed = (1.0 - right)[None, :] * self.wrong[:, None]
        factor = np.where(self.match, right, missed[:, None, :])
        factor = np.where(self.answered[:, None, :], factor, 1.0)
        return np.asarray(self.base * factor.prod(axis=2))


def _prior(
    graded: tuple[int, int], group: int, seen: int, k: float, hypotheses: int
) -> Float64Array:
    """Prior of each hypothesis, times K so that it replaces a flat one, from a graded view's shares; ``group`` is its own."""
    of_label, of_own = graded[0] / GRADES, graded[1] / GRADES
    named = 1 if group <= 0 else 2
    rest = max(1.0 - of_label - (of_own if group > 0 else 0.0), 0.01)
    prior = np.full(hypotheses, rest / (k - named) if k > named else 0.0)
    prior[0] = of_label
    if group >= 0:
        prior[group] = of_own
    prior[seen : hypotheses - 1] = 0.0
    return prior * k


def _maximise(
    table: _Table,
    weight: Float64Array,
    rate: float,
    accuracy: Float64Array,
    fixed: bool = False,
    steps: int = 2000,
    tolerance: float = 1e-8,
) -> _Fit:
    """Expectation maximisation; ``fixed`` holds the rate. One pseudo-sample keeps accuracies off 0 and 1."""
    asked = table.answered * weight[:, None]
    total = asked.sum(axis=0)
    previous = np.inf
    for _ in range(steps):
        joint = table.joint(rate, accuracy)
        evidence = np.maximum(joint.sum(axis=1), _TINY)
        loss = -float(weight @ np.log(evidence))
        prior = -0.5 * float(np.log(accuracy * (1 - accuracy)).sum())
        if abs(previous - loss - prior) < tolerance:
            return _Fit(rate, accuracy, loss, converged=True)
        previous = loss + prior
        posterior = joint / evidence[:, None] * weight[:, None]
        hits = np.einsum("ph,phs->s", posterior, table.match)
        if not fixed and total[0]:
            rate = float(np.clip(1.0 - hits[0] / total[0], 0.0, _TOP))
        accuracy = np.clip((hits[1:] + 0.5) / (total[1:] + 1.0), table.floor, 1 - 1e-6)
    return _Fit(rate, accuracy, loss, converged=False)


def _bound(table: _Table, weight: Float64Array, fit: _Fit, end: float) -> float:
    """Where, from the estimate towards ``end``, the profile likelihood of rho leaves its 95% region."""

    starts = [fit.accuracy]
    if table.answered[:, 1:].any():
        starts += [np.full_like(fit.accuracy, 0.9), np.full_like(fit.accuracy, 0.55)]

    def inside(rate: float) -> bool:
        losses = (
            _maximise(table, weight, rate, a, fixed=True, steps=300, tolerance=1e-6).loss
            for a in starts
        )
        return any(loss <= fit.loss + _HALF_CHI2 for loss in losses)

    if inside(end):
        return 0.0 if end == 0.0 else 1.0
    near, far = fit.rate, end
    while abs(far - near) > 5e-4:
        middle = (near + far) / 2
        near, far = (middle, far) if inside(middle) else (near, middle)
    return float(near)
