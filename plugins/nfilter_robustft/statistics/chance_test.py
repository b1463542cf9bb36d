"""Sequential likelihood ratio test: do a view's answers predict the noisy labels better than chance?

Let y_i be the label, v_i the view's answer (a missing answer is an answer like any other), and z_i = 1 if they agree.
In a share s of the rows the answer follows the label; elsewhere it is drawn from a background b independent of the row:

    P(v_i | y_i) = (1 - s) b(v_i) + s z_i.

No truth is needed. With K options, uniform noise at rate rho and a view with accuracy a,
s = (1 - rho K / (K-1)) (a K - 1) / (K-1): noise lowers s, but s stays positive while rho < (K-1)/K. A view that favours
one answer gains nothing, because b favours it too. b is fitted for each s, so two values of s differ in agreement only.
The background of open answers cannot be fitted; for them

    P(z_i = 1) = c_i + s (1 - c_i)

where c_i is the frequency of v_i among the other labels, or the rate at which answers agree with labels of other rows.

The test is sequential (Wald 1945). With L(s) the likelihood over all rows so far, the view is *weak* once the mean of
L(s) over s < MIN_SHARE reaches e^3 L(MIN_SHARE), and *useful* once the mean over larger s does. For known b and c, each
ratio has an expectation of at most 1 under the opposite hypothesis, so it ever reaches e^3 with probability at most
e^-3 = 5%, for any number of looks (Ville 1939); the tests measure this with b and c fitted. ``robustft.neighbors``
uses the same threshold of 3 nats.

``biased``: the view is weak by agreement, but its answers predict other labels than they name: predicting each label
from earlier rows with the same answer (smoothed by frequencies) gains 3 nats or more.

References: Wald, Annals of Mathematical Statistics 16 (1945); Ville, Etude critique de la notion de collectif (1939).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from nfilter import JSON

Float64Array = npt.NDArray[np.float64]

NATS: Final = 3.0
MIN_SHARE: Final = 0.07
_LOWER: Final = (0.0, MIN_SHARE / 2)
_HIGHER: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_SHARES: Final = np.array((*_LOWER, MIN_SHARE, *_HIGHER))
_MAX_CLASSES: Final = 64  # distinct labels with a fitted background
_ROWS_PER_CLASS: Final = 8
_STEPS: Final = 100
_TINY: Final = 1e-12
_PRIOR_ROWS: Final = 2.0  # weight of the frequencies as a prior, in rows


def beats_frequencies(baseline: float, nll: float, labels: int) -> bool:
    """Return whether predictions gain 3 nats or more over frequencies; both are nll per label, in nats."""
    return (baseline - nll) * labels > NATS


@dataclass(frozen=True, slots=True)
class ChanceTest:
    """Result of the test on ``rows`` rows.

    ``agreement`` is the share of answers that agree with the label, ``chance`` the expected share by chance, and
    ``no_answer`` the share without an answer. ``gain`` is the log-likelihood gain over frequencies in nats per label,
    averaged over all s, so that no s is chosen by these labels.
    """

    verdict: Literal["useful", "weak", "open"]
    rows: int
    agreement: float
    chance: float
    no_answer: float
    gain: float
    biased: bool

    def to_json(self) -> dict[str, JSON]:
        """Return the figures for metrics.json."""
        return {
            "verdict": self.verdict,
            "rows": self.rows,
            "agreement": round(self.agreement, 6),
            "chance": round(self.chance, 6),
            "no_answer": round(self.no_answer, 6),
            "gain_per_label": round(self.gain, 6),
            "biased": self.biased,
        }


def compare_with_chance(
    labels: Sequence[str],
    answers: Sequence[str | None],
    agree: Sequence[bool],
    chance: float | None = None,
) -> ChanceTest:
    """Test whether a view's answers predict the labels better than chance.

    Args:
        labels: keys of the noisy labels [n]; equal keys are equal answers.
        answers: keys of the view's answers [n]; None without an answer.
        agree: z_i [n]; False without an answer.
        chance: rate at which answers agree with labels of other rows, for keys without frequencies; else None.

    Raises:
        ValueError: If there is no row.
    """
    n = len(labels)
    if not n:
        raise ValueError("the test needs at least one row")
    counts = Counter(labels)
    agreed = np.array(agree, dtype=np.float64)
    by_chance = (
        sum(counts[a] - z for a, z in zip(answers, agree, strict=True) if a is not None)
        / max(1, n - 1)
        / n
        if chance is None
        else chance * sum(answer is not None for answer in answers) / n
    )
    closed = chance is None and len(counts) <= min(_MAX_CLASSES, n // _ROWS_PER_CLASS)
    logs = (
        _log_likelihood_closed(answers, agree)
        if closed
        else _log_likelihood_open(labels, answers, agreed, chance)
    )
    lower, middle, higher = (
        _log_mean(logs[: len(_LOWER)]),
        float(logs[len(_LOWER)]),
        _log_mean(logs[len(_LOWER) + 1 :]),
    )
    verdict: Literal["useful", "weak", "open"] = (
        "weak" if lower - middle >= NATS else "useful" if higher - middle >= NATS else "open"
    )
    return ChanceTest(
        verdict,
        n,
        float(agreed.mean()),
        by_chance,
        sum(answer is None for answer in answers) / n,
        _log_mean(logs) / n,
        verdict == "weak" and closed and _table_gain(labels, answers) >= NATS,
    )


def _log_mean(logs: Float64Array) -> float:
    """Return log(mean(exp(logs)))."""
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def _log_likelihood_closed(answers: Sequence[str | None], agree: Sequence[bool]) -> Float64Array:
    """Return log L(s) / L(0) [S] for closed answers, with the maximum likelihood background of each s."""
    rows = Counter(answers)
    hits = Counter(answer for answer, same in zip(answers, agree, strict=True) if same)
    count = np.array([rows[answer] for answer in rows], dtype=np.float64)
    agreed = np.array([hits[answer] for answer in rows], dtype=np.float64)
    share = _SHARES[:, None]
    background = np.tile(count / count.sum(), (len(share), 1))
    for _ in range(_STEPS):
        before = background
        follows = share / np.maximum((1 - share) * background + share, _TINY)
        rest = np.maximum(count - agreed * follows, _TINY)
        background = rest / rest.sum(axis=1, keepdims=True)
        if np.abs(background - before).max() < 1e-10:
            break
    random = np.maximum((1 - share) * background, _TINY)
    total = np.log(random) @ (count - agreed) + np.log(random + share) @ agreed
    return np.asarray(total - count @ np.log(count / count.sum()))


def _log_likelihood_open(
    labels: Sequence[str],
    answers: Sequence[str | None],
    agreed: Float64Array,
    chance: float | None,
) -> Float64Array:
    """Return log L(s) / L(0) [S] for open answers."""
    if chance is None:
        counts = Counter(labels)
        size = len(labels) - 1 + 0.5 * (len(counts) + 1)
        # An answer equal to no other label counts as half a row.
        each = [
            0.0 if a is None else (counts[a] - (a == label) + 0.5) / size
            for label, a in zip(labels, answers, strict=True)
        ]
    else:
        each = [0.0 if answer is None else chance for answer in answers]
    chances = np.array(each)
    ratio = np.divide(agreed, chances, out=np.zeros_like(agreed), where=chances > 0)
    return np.asarray(np.log1p(_SHARES[:, None] * (ratio - 1.0)).sum(axis=1))


def _table_gain(labels: Sequence[str], answers: Sequence[str | None]) -> float:
    """Return the log-likelihood gain, in nats, of predicting each label from earlier rows with the same answer."""
    counts = Counter(labels)
    total: Counter[str] = Counter()
    by_answer: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    gain = 0.0
    for index, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        share = (total[label] + 0.5) / (index + 0.5 * len(counts))
        same = by_answer[answer]
        gain += math.log((same[label] + _PRIOR_ROWS * share) / (same.total() + _PRIOR_ROWS) / share)
        total[label] += 1
        same[label] += 1
    return gain
