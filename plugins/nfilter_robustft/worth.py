"""Is a view worth its calls: do its answers foretell the noisy labels better than label frequencies alone?

Label y_i, the view's answer v_i (none is an answer like any other), z_i = 1 where they agree. In a share s of the rows the
answer follows the label, elsewhere it comes from a background b that knows nothing of the row:

    P(v_i | y_i) = (1 - s) b(v_i) + s z_i.

No truth is needed. With K options, noise rho that falls evenly on the wrong ones and a view that is right in a share
a of the rows, s = (1 - rho K / (K-1)) (a K - 1) / (K-1): noise lowers s and never makes it negative while rho is under
chance, (K-1)/K. A view that favours one answer gets nothing for that, since b favours it too. b is fitted for each s, so
that two s are compared by what they say of agreement alone. Open answers have no background that could be fitted; there

    P(z_i = 1) = c_i + s (1 - c_i)

with c_i how frequent the answer v_i is among the other labels, or how often answers agree with labels of other rows.

The test is sequential (Wald 1945): with L(s) the likelihood over all rows so far, the view is *weak* as soon as the mean of
L(s) over s < LEAST is e^3 times L(LEAST), and *useful* as soon as the mean over larger s is e^3 times L(LEAST). With b and c
known, either ratio has an expectation of at most 1 where the opposite is true, and so ever gets that far with a probability
of at most e^-3 = 5%, however often one looks (Ville 1939); the tests measure it with b and c fitted. Three nats are what
``robustft.neighbors`` asks of its votes as well.

``biased``: weak by agreement, and yet the answers foretell labels, by other answers than they name: the labels are
likelier by 3 nats, each given the labels of earlier rows with the same answer (smoothed by the frequencies).

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
LEAST: Final = 0.07
_LOWER: Final = (0.0, LEAST / 2)
_HIGHER: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_SHARES: Final = np.array((*_LOWER, LEAST, *_HIGHER))
_CLASSES: Final = 64  # answers that a table of biases may have
_ROWS_A_CLASS: Final = 8
_STEPS: Final = 100
_TINY: Final = 1e-12
_MASS: Final = 2.0  # rows that the frequencies count as in that table


def foretells(baseline: float, nll: float, labels: int) -> bool:
    """Whether ``labels`` labels are likelier than under their frequencies by 3 nats or more; both are nll a label."""
    return (baseline - nll) * labels > NATS


@dataclass(frozen=True, slots=True)
class Worth:
    """What the first ``rows`` rows say of a view.

    ``agreement`` is the share in which it says the label, ``chance`` the share in which it would by chance, and
    ``no_answer`` the share without an answer. ``gain`` is how many nats a label the answers save beyond frequencies:
    the mean of L(s) over all s, which is held out, as no s was chosen by these labels.
    """

    verdict: Literal["useful", "weak", "open"]
    rows: int
    agreement: float
    chance: float
    no_answer: float
    gain: float
    biased: bool

    def to_json(self) -> dict[str, JSON]:
        """The figures as metrics.json has them."""
        return {
            "verdict": self.verdict,
            "rows": self.rows,
            "agreement": round(self.agreement, 6),
            "chance": round(self.chance, 6),
            "no_answer": round(self.no_answer, 6),
            "gain_per_label": round(self.gain, 6),
            "biased": self.biased,
        }


def worth(
    labels: Sequence[str],
    answers: Sequence[str | None],
    agree: Sequence[bool],
    chance: float | None = None,
) -> Worth:
    """Judge a view by ``labels`` [n], its ``answers`` [n] (None: none was read) and whether they ``agree`` [n].

    Args:
        labels: keys of the noisy labels; equal keys are equal answers.
        answers: keys of the view's answers.
        agree: z_i; False where there is no answer.
        chance: how often answers agree with labels of other rows, where keys have no frequencies; else None.

    Raises:
        ValueError: where there is no row.
    """
    n = len(labels)
    if not n:
        raise ValueError("a view is judged by one row at least")
    counts = Counter(labels)
    said = np.array(agree, dtype=np.float64)
    by_chance = (
        sum(counts[a] - z for a, z in zip(answers, agree, strict=True) if a is not None)
        / max(1, n - 1)
        / n
        if chance is None
        else chance * sum(answer is not None for answer in answers) / n
    )
    closed = chance is None and len(counts) <= min(_CLASSES, n // _ROWS_A_CLASS)
    logs = _background(answers, agree) if closed else _frequencies(labels, answers, said, chance)
    lower, least, higher = (
        _mean(logs[: len(_LOWER)]),
        float(logs[len(_LOWER)]),
        _mean(logs[len(_LOWER) + 1 :]),
    )
    verdict: Literal["useful", "weak", "open"] = (
        "weak" if lower - least >= NATS else "useful" if higher - least >= NATS else "open"
    )
    return Worth(
        verdict,
        n,
        float(said.mean()),
        by_chance,
        sum(answer is None for answer in answers) / n,
        _mean(logs) / n,
        verdict == "weak" and closed and _table_gain(labels, answers) >= NATS,
    )


def _mean(logs: Float64Array) -> float:
    """The logarithm of the mean of what ``logs`` are the logarithms of."""
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def _background(answers: Sequence[str | None], agree: Sequence[bool]) -> Float64Array:
    """log L(s) / L(0) [S] for closed answers, each s with the background that makes the answers likeliest."""
    rows = Counter(answers)
    hits = Counter(answer for answer, same in zip(answers, agree, strict=True) if same)
    count = np.array([rows[answer] for answer in rows], dtype=np.float64)
    right = np.array([hits[answer] for answer in rows], dtype=np.float64)
    share = _SHARES[:, None]
    background = np.tile(count / count.sum(), (len(share), 1))
    for _ in range(_STEPS):
        before = background
        follows = share / np.maximum((1 - share) * background + share, _TINY)
        rest = np.maximum(count - right * follows, _TINY)
        background = rest / rest.sum(axis=1, keepdims=True)
        if np.abs(background - before).max() < 1e-10:
            break
    apart = np.maximum((1 - share) * background, _TINY)
    total = np.log(apart) @ (count - right) + np.log(apart + share) @ right
    return np.asarray(total - count @ np.log(count / count.sum()))


def _frequencies(
    labels: Sequence[str],
    answers: Sequence[str | None],
    said: Float64Array,
    chance: float | None,
) -> Float64Array:
    """log L(s) / L(0) [S] for open answers."""
    if chance is None:
        counts = Counter(labels)
        size = len(labels) - 1 + 0.5 * (len(counts) + 1)
        # An answer that no other label has is as likely as half a row.
        each = [
            0.0 if a is None else (counts[a] - (a == label) + 0.5) / size
            for label, a in zip(labels, answers, strict=True)
        ]
    else:
        each = [0.0 if answer is None else chance for answer in answers]
    chances = np.array(each)
    ratio = np.divide(said, chances, out=np.zeros_like(said), where=chances > 0)
    return np.asarray(np.log1p(_SHARES[:, None] * (ratio - 1.0)).sum(axis=1))


def _table_gain(labels: Sequence[str], answers: Sequence[str | None]) -> float:
    """Nats that the answers save of all labels when each answer has frequencies of its own."""
    counts = Counter(labels)
    every: Counter[str] = Counter()
    by_answer: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    gain = 0.0
    for place, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        share = (every[label] + 0.5) / (place + 0.5 * len(counts))
        own = by_answer[answer]
        gain += math.log((own[label] + _MASS * share) / (own.total() + _MASS) / share)
        every[label] += 1
        own[label] += 1
    return gain
