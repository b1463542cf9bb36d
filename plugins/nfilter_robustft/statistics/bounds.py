"""Bounds of the noise rate from an agreement table, without assuming that views err independently.

Notation: rho = P(label wrong), the noise rate. Z = 1 if the views confirm the label, p = P(Z = 1),
alpha = P(Z = 1 | label right), beta = P(Z = 1 | label wrong). Then (1)

    p = (1 - rho) alpha + rho beta,    so    rho = (alpha - p) / (alpha - beta).

Only p is observed. Three annotators that err independently identify alpha, beta and rho (Hui & Walter 1980; Dawid &
Skene 1979). Views that share mistakes with each other or with the label do not: parameters for dependence leave more
unknowns than the table has cells (Vacek 1985). Two views with the same mistake are indistinguishable from two views
that detect a wrong label (the independent model then overestimates rho), and a view with the label's mistake from one
that confirms a right label (it then underestimates rho). So rho is partially identified (Manski 2003), and equation
(1) bounds it under limits on alpha and beta that do not require independence:

    A1  alpha >= 1/2: the views confirm at least half of the right labels, among rows where all views agree, among rows
        where they split, and for at least one single view.
    A2  beta <= 1/3 (0.4 with three options, 0.6 with two), and beta <= 1.5 (1 - alpha): a view, or the consensus of the
        views, confirms at most a third of the wrong labels, and at most 1.5 times the share of right labels that it
        contradicts.

rho decreases with beta, so the lower bound has beta = 0: rho >= 1 - p / alpha, which A1 makes 1 - 2p. The upper bound
is the maximum of (1) over the alpha and beta that A1 and A2 allow. Each single view, each pair and all views together
give such bounds. With more than one view, the rows are divided into those where the views agree (Z = 1 if their answer
is the label) and those where they split (Z = 1 if any answer is the label; A2 is then beta <= 1/2, 3/4 with three
options, and no limit with two, as one view always confirms the label). rho is the mean over both parts; a row without
any answer counts as 0 for the lower bound and 1 for the upper bound.

The upper bound is the minimum over all sets of views, so another view can only lower it. The lower bound applies A1 to
the view that confirms most labels and to all views together, the weakest assumption: a poor view, or a copy of another
view, does not raise it.

Trusted rows (labels known to be right) measure alpha for any dependence between views. Its 95% interval then narrows
A1 for every set of views, and the lower bound assumes only that trusted rows are representative of rows with a right
label. (This is mixture proportion estimation: Blanchard, Lee & Scott 2010.) An audit measures rho itself. Every
observed share enters with its Wilson interval, wide enough that the chosen bound has 95% coverage.

Not covered: labels written by the model of one of the views, or labels that share most mistakes with the views. An
agreement table cannot distinguish such labels from right ones; an audit can.

References: Hui & Walter, Biometrics 36 (1980); Dawid & Skene, Applied Statistics 28 (1979); Vacek, Biometrics 41
(1985); Manski, Partial Identification of Probability Distributions (2003); Blanchard, Lee & Scott, JMLR 11 (2010).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

from nfilter import JSON, wilson
from nfilter_robustft.statistics.posterior import Pattern

_MIN_ALPHA = 0.5  # A1
_MAX_BETA = {2: 0.6, 3: 0.4}  # A2, by number of options; else 1/3
_MAX_BETA_SPLIT = {2: 1.0, 3: 0.75}  # A2 for rows where views split; else 1/2
_MAX_RATIO = 1.5  # A2
_STEPS = 64
_NARROW = 0.1


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of the noise rate from ``n`` untrusted labels and ``trusted`` trusted rows."""

    low: float
    high: float
    n: int
    trusted: int = 0

    @property
    def estimate(self) -> float | None:
        """Midpoint if trusted rows narrow the range to at most 0.1, else None: no point is identified."""
        narrow = self.trusted and self.high - self.low <= _NARROW
        return (self.low + self.high) / 2 if narrow else None

    def to_json(self) -> dict[str, JSON]:
        """Return the figures for metrics.json."""
        middle = self.estimate
        return {
            "estimate": None if middle is None else round(middle, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "n": self.n,
            "trusted": self.trusted,
        }


@dataclass(frozen=True, slots=True)
class _Part:
    """Number of untrusted and trusted rows, and of those whose label is confirmed."""

    confirmed: int = 0
    rows: int = 0
    trusted_confirmed: int = 0
    trusted_rows: int = 0

    def plus(self, confirmed: bool, n: int, trusted: bool) -> _Part:
        hits = n if confirmed else 0
        if trusted:
            return replace(
                self,
                trusted_confirmed=self.trusted_confirmed + hits,
                trusted_rows=self.trusted_rows + n,
            )
        return replace(self, confirmed=self.confirmed + hits, rows=self.rows + n)


@dataclass(frozen=True, slots=True)
class _Table:
    """Counts for one set of views: rows where the views agree, where they split, and without an answer."""

    agreed: _Part
    split: _Part
    unanswered: int
    options: int

    @classmethod
    def of(cls, counts: Mapping[Pattern, int], views: Iterable[int], options: int) -> _Table:
        agreed, split, unanswered = _Part(), _Part(), 0
        chosen = tuple(views)
        for pattern, n in counts.items():
            answers = {pattern.groups[v + 1] for v in chosen} - {-1}
            if len(answers) == 1:
                agreed = agreed.plus(0 in answers, n, pattern.trusted)
            elif answers:
                split = split.plus(0 in answers, n, pattern.trusted)
            elif not pattern.trusted:
                unanswered += n
        return cls(agreed, split, unanswered, options)

    @property
    def rows(self) -> int:
        return self.agreed.rows + self.split.rows + self.unanswered

    def low(self, z: float, assume_a1: bool) -> float:
        """Return the lower bound; without ``assume_a1``, only trusted rows limit alpha."""
        wrong = sum(
            part.rows
            * _lower_bound(
                _wilson(part.confirmed, part.rows, z)[1], _alpha_range(part, z, assume_a1)[0]
            )
            for part in (self.agreed, self.split)
        )
        return wrong / self.rows

    def high(self, z: float) -> float:
        """Return the upper bound."""
        wrong = self.agreed.rows * _upper_bound(
            self.agreed, z, _MAX_BETA.get(self.options, 1 / 3), _MAX_RATIO
        )
        wrong += self.split.rows * _upper_bound(
            self.split, z, _MAX_BETA_SPLIT.get(self.options, 0.5), math.inf
        )
        return (wrong + self.unanswered) / self.rows


def rate_range(counts: Mapping[Pattern, int], views: int) -> Range:
    """Return the bounds of the noise rate from the ``counts`` of patterns over ``views`` views.

    Patterns without a readable label are ignored. Without any label or view, the range is 0 to 1.
    """
    used = {pattern: n for pattern, n in counts.items() if pattern.groups[0] == 0 and n > 0}
    n = sum(m for pattern, m in used.items() if not pattern.trusted)
    trusted = sum(used.values()) - n
    if not n or not views:
        return Range(0.0, 1.0, n, trusted)
    options = min((pattern.options for pattern in used if pattern.options > 1), default=0)
    tables = {names: _Table.of(used, names, options) for names in _subsets(views)}
    z = NormalDist().inv_cdf(1 - 0.025 / (1 if views == 1 else views + 1))
    all_views = tuple(range(views))
    best = max(((v,) for v in all_views), key=lambda names: tables[names].agreed.confirmed)
    low = max(table.low(z, names in (all_views, best)) for names, table in tables.items())
    high = min(table.high(z) for table in tables.values())
    # If the table contradicts the assumptions, low exceeds high; report the interval between them.
    return Range(min(low, high), max(low, high), n, trusted)


def _subsets(views: int) -> Sequence[tuple[int, ...]]:
    """Return each view, each pair and the set of all views."""
    sizes = {1, min(2, views), views}
    return [names for size in sorted(sizes) for names in combinations(range(views), size)]


def _wilson(hits: int, rows: int, z: float) -> tuple[float, float]:
    return wilson(hits, rows, z) or (0.0, 1.0)


def _alpha_range(part: _Part, z: float, assume_a1: bool) -> tuple[float, float]:
    """Return the limits of alpha from trusted rows, and from A1 unless they contradict it."""
    low, high = _wilson(part.trusted_confirmed, part.trusted_rows, z)
    return (max(low, _MIN_ALPHA) if assume_a1 and high > _MIN_ALPHA else low), high


def _lower_bound(p: float, alpha: float) -> float:
    return max(0.0, 1.0 - p / alpha) if alpha > 0 else 0.0


def _upper_bound(part: _Part, z: float, max_beta: float, ratio: float) -> float:
    """Return the maximum of equation (1) over the allowed alpha and beta."""
    p = _wilson(part.confirmed, part.rows, z)[0]
    if p >= 1.0:
        return 0.0
    low, high = _alpha_range(part, z, assume_a1=True)
    low = max(low, p)
    high = max(low, high)
    bound = 0.0
    for step in range(_STEPS + 1):
        alpha = low + (high - low) * step / _STEPS
        limit = ratio * (1 - alpha) if math.isfinite(ratio) else 1.0
        beta = min(max_beta, limit, p)
        bound = max(bound, 1.0 if alpha <= beta else min(1.0, (alpha - p) / (alpha - beta)))
    return bound
