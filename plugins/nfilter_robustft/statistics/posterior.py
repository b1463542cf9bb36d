"""Posterior probability that a label is wrong, from agreement patterns (Dawid & Skene 1979, one parameter per view).

Each sample has a hidden true answer. The label is right with probability 1 - rho and view v with probability a_v,
independently; two wrong answers are equal with probability c (1/(K-1) for K options). A view with calibrated shares of
votes (neighbours) has no parameter: its shares are the prior of the true answer. Only the pattern of agreement matters,
so a dataset of any size reduces to a short table of counts.

Real views share mistakes. The model mistakes shared mistakes of views for agreement on the truth, and overestimates
rho; it mistakes mistakes shared with the label for right labels, and underestimates rho (the tests measure both). Its
interval accounts for neither. So this rho only serves to rank labels; the reported noise rate is the range from
``bounds``, which does not assume independence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import JSON

Float64Array = npt.NDArray[np.float64]

GRADES = 100
_COLLISIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_OPEN = 0.01  # collision probability of open answers if it cannot be estimated
_STARTS = tuple((rate, accuracy) for rate in (0.1, 0.4, 0.7) for accuracy in (0.55, 0.9))
_TOP = 0.99
_FLAT = 0.2
_HALF_CHI2 = 1.9207  # half the 95% point of chi-squared with one degree of freedom
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Pattern:
    """Agreement pattern of one sample.

    ``groups`` numbers the distinct answers of (label, view 1, view 2, ...) in order of appearance, so the label has 0;
    -1 is a missing answer. ``options`` is K, or 0 for open answers. ``grades`` contains, per view, None or a graded
    view's shares of the label's answer and of its own answer, in steps of 1/100; without an own answer, the first is
    the frequency of the label's answer and only affects the noise score. ``trusted``: the label is known to be right.
    """

    groups: tuple[int, ...]
    options: int = 0
    grades: tuple[tuple[int, int] | None, ...] = ()
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """The model fitted to ``n`` labels; ``low`` and ``high`` are the 95% profile likelihood interval of rho.

    ``ends`` are the accuracies that are likeliest at ``low`` and at ``high``; empty without labels. The interval ignores the
    uncertainty of graded views' shares.
    """

    rate: float
    low: float
    high: float
    n: int
    accuracy: Mapping[str, float | None]
    collision: float
    converged: bool
    ends: Sequence[Mapping[str, float | None]] = ()

    def to_json(self) -> dict[str, JSON]:
        """Return JSON values for a stage's state."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Estimate:
        """Return the estimate from ``to_json``'s values."""
        return cls(**values)


def grade(share: float) -> int:
    """Round a share to steps of 1/100, within [1, 99], because votes are never certain."""
    return min(GRADES - 1, max(1, round(share * GRADES)))


def partition(
    answers: Sequence[str | None], same: Mapping[tuple[str, str], bool]
) -> tuple[int, ...]:
    """Return group numbers of ``answers``: each joins the first group whose first answer agrees with it; None is -1.

    ``same`` maps pairs of unequal answers, the earlier first, to whether they agree; equal answers always agree.
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

    ``collision`` fixes the probability c of open answers; None estimates it if there are at least two views.
    Patterns without a readable label are ignored. With one ungraded view, rho and the view's accuracy are not
    identifiable, and the interval is wide.
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
    low, at_low = _bound(table, weight, fit, 0.0)
    high, at_high = _bound(table, weight, fit, _TOP)
    # If the likelihood is flat between the bounds, the midpoint has the smallest maximum error.
    middle = _maximise(table, weight, (low + high) / 2, fit.accuracy, fixed=True)
    if high - low > _FLAT and middle.loss < fit.loss + 0.05:
        fit = middle
    graded = _graded_accuracy(patterns, weight, table.joint(fit.rate, fit.accuracy))
    accuracies, *ends = (
        {
            view: float(a) if table.answered[:, i + 1].any() else graded.get(i)
            for i, (view, a) in enumerate(zip(views, found, strict=True))
        }
        for found in (fit.accuracy, at_low, at_high)
    )
    return Estimate(fit.rate, low, high, n, accuracies, table.chance, fit.converged, ends)


def _without_frequencies(pattern: Pattern) -> Pattern:
    """Remove frequencies from ``pattern`` for the fit: they are those of the labels and would call any label right."""
    grades = tuple(
        None if group < 0 else graded
        for graded, group in zip(pattern.grades, pattern.groups[1:], strict=bool(pattern.grades))
    )
    return replace(pattern, grades=grades)


def _graded_accuracy(
    patterns: Sequence[Pattern], weight: Float64Array, joint: Float64Array
) -> dict[int, float]:
    """Return the graded views' expected accuracy under the posterior, by view number."""
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
    """Return P(label wrong | pattern): 1 without a readable label, 0 for a trusted one."""
    if pattern.trusted:
        return 0.0
    if pattern.groups[0] != 0:
        return 1.0
    table = _Table.of([pattern], fitted.collision)
    accuracy = np.array([0.5 if a is None else a for a in fitted.accuracy.values()])
    joint = table.joint(fitted.rate, accuracy)[0]
    return float(np.clip(1.0 - joint[0] / max(joint.sum(), _TINY), 0.0, 1.0))


def noise_range(pattern: Pattern, fitted: Estimate) -> tuple[float, float]:
    """Return the lowest and highest noise score over the interval of rho, with the accuracies that are likeliest at its ends."""
    ends = zip((fitted.low, fitted.high), fitted.ends, strict=False)
    scores = [noise_score(pattern, fitted)]
    scores += [noise_score(pattern, replace(fitted, rate=r, accuracy=a)) for r, a in ends]
    return min(scores), max(scores)


@dataclass(frozen=True, slots=True)
class _Fit:
    rate: float
    accuracy: Float64Array
    loss: float
    converged: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """P patterns and H hypotheses: the true answer is group h, or, for the last h, none of the pattern's answers.

    ``base`` [P, H]: prior of the hypothesis times graded evidence. ``match`` [P, H, S] and ``answered`` [P, S]
    for S annotators, the label first. ``wrong`` [P]: probability of one specific wrong answer. ``floor`` [S-1]: a
    view's minimum accuracy, that of guessing; without it, swapping right and wrong would be equally likely.
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
        """Build the table. ``chance`` is the probability that two wrong open answers agree."""
        size, annotators = len(patterns), len(patterns[0].groups)
        hypotheses = max(max(pattern.groups) for pattern in patterns) + 2
        base = np.zeros((size, hypotheses))
        match = np.zeros((size, hypotheses, annotators), dtype=bool)
        answered = np.zeros((size, annotators), dtype=bool)
        wrong = np.empty(size)
        for i, pattern in enumerate(patterns):
            distinct = max(pattern.groups) + 1
            # K possible answers: for open answers, K - 1 equally likely wrong ones agree with probability ``chance``.
            k = float(pattern.options) if pattern.options > 1 else 1.0 + 1.0 / chance
            wrong[i] = 1.0 / (k - 1.0)
            # The number of assignments of K answers to the groups; it matters when c is estimated.
            ways = np.prod([max(k - j, 1e-3) for j in range(distinct)]) / k
            base[i, :distinct] = ways
            base[i, -1] = ways * max(k - distinct, 0.0)
            # A graded view gives the prior evidence; any other annotator gives an answer.
            for s, group in enumerate(pattern.groups):
                graded = pattern.grades[s - 1] if s and pattern.grades else None
                if graded is not None:
                    base[i] *= _prior(graded, group, distinct, k, hypotheses)
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
        """Return P(pattern, hypothesis) [P, H], up to a factor per pattern."""
        right = np.concatenate([[1.0 - rate], accuracy])
        missed = (1.0 - right)[None, :] * self.wrong[:, None]
        factor = np.where(self.match, right, missed[:, None, :])
        factor = np.where(self.answered[:, None, :], factor, 1.0)
        return np.asarray(self.base * factor.prod(axis=2))


def _prior(
    graded: tuple[int, int], group: int, distinct: int, k: float, hypotheses: int
) -> Float64Array:
    """Return K times the prior of each hypothesis [H] from the shares of a graded view whose answer is ``group``."""
    of_label, of_own = graded[0] / GRADES, graded[1] / GRADES
    named = 1 if group <= 0 else 2
    rest = max(1.0 - of_label - (of_own if group > 0 else 0.0), 0.01)
    prior = np.full(hypotheses, rest / (k - named) if k > named else 0.0)
    prior[0] = of_label
    if group >= 0:
        prior[group] = of_own
    prior[distinct : hypotheses - 1] = 0.0
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
    """Run expectation maximisation; ``fixed`` keeps the rate. A pseudo-sample keeps accuracies away from 0 and 1."""
    total = (table.answered * weight[:, None]).sum(axis=0)
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


def _bound(
    table: _Table, weight: Float64Array, fit: _Fit, end: float
) -> tuple[float, Float64Array]:
    """Return the boundary, towards ``end``, of the 95% profile likelihood region of rho, and the likeliest accuracies there."""
    starts = [fit.accuracy]
    if table.answered[:, 1:].any():
        starts += [np.full_like(fit.accuracy, 0.9), np.full_like(fit.accuracy, 0.55)]

    def inside(rate: float) -> Float64Array | None:
        fits = (
            _maximise(table, weight, rate, a, fixed=True, steps=300, tolerance=1e-6) for a in starts
        )
        return next(
            (each.accuracy for each in fits if each.loss <= fit.loss + _HALF_CHI2),
            None,
        )

    if (found := inside(end)) is not None:
        return (0.0 if end == 0.0 else 1.0), found
    near, far, accuracy = fit.rate, end, fit.accuracy
    while abs(far - near) > 5e-4:
        middle = (near + far) / 2
        if (found := inside(middle)) is None:
            far = middle
        else:
            near, accuracy = middle, found
    return float(near), accuracy
