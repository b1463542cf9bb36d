"""The range of noise rates that an agreement table allows, whatever mistakes the views share.

Notation: rho = P(label wrong), the noise rate. Z = 1 where the views confirm the label, p = P(Z = 1),
alpha = P(Z = 1 | label right), beta = P(Z = 1 | label wrong). Then (1)

    p = (1 - rho) alpha + rho beta,    so    rho = (alpha - p) / (alpha - beta).

Only p is observed. Three annotators that err independently identify alpha, beta and rho (Hui & Walter 1980; Dawid &
Skene 1979); views that share mistakes with each other, or with the label, do not: adding parameters for dependence
leaves more unknowns than the table has cells (Vacek 1985). Two views that repeat one mistake look like two views
that see a wrong label (the independent model is then too high), and a view that repeats the label's mistake looks
like one that confirms a right label (then it is too low). So rho is partially identified (Manski 2003), and
equation (1) gives its range under limits on alpha and beta that hold without independence:

    A1  alpha >= 1/2: where the label is right, the views confirm it in half of the rows or more, in the rows where all
        views agree, in the rows where they split, and for at least one single view.
    A2  beta <= 1/3 (0.4 with three options, 0.6 with two), and beta <= 1.5 (1 - alpha): where the label is wrong, a view or the
        consensus of the views repeats the same mistake in a third of the rows at most, and at most 1.5 times as often
        as it contradicts right labels.

rho falls in beta, so its lower end has beta = 0: rho >= 1 - p / alpha; A1 makes that 1 - 2p. The upper end is the
largest value of (1) over the alpha and beta that A1 and A2 allow. Each single view, each pair and all views together
give such a range. For more than one view the rows are divided by whether the views agree with each other (Z = 1 where
their answer is the label) or split (Z = 1 where one of them says the label; there A2 is beta <= 1/2 alone, 3/4 with
three options, and with two one of them always says it, so nothing is known); rho is the mean over the two parts, and a
row without any answer counts as 0 for the lower and 1 for the upper end.

The upper end is the least of all these ranges: one more view can only lower it. The lower end takes A1 from the
view that confirms most and from all views together, which is the weakest claim: a poor view, or a copy of
another, does not raise it.

Trusted rows (labels known to be right) show alpha itself, for any dependence between views: its 95% interval then
narrows A1 for every view and subset, and the lower end needs no assumption at all except that trusted rows are like other
rows with a right label. (This is estimation of a mixture proportion: Blanchard, Lee & Scott 2010.) An audit shows
rho itself. Every observed share enters with its Wilson interval, wide enough that the chosen end holds at 95%.

Not covered: labels that one of the views' own models wrote, or with which the views share most mistakes. Nothing in an
agreement table tells such a label from a right one; an audit does.

References: Hui & Walter, Biometrics 36 (1980); Dawid & Skene, Applied Statistics 28 (1979); Vacek, Biometrics 41
(1985); Manski, Partial Identification of Probability Distributions (2003); Blanchard, Lee & Scott, JMLR 11 (2010).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

from nfilter import JSON
from nfilter_robustft.posterior import Pattern

_LEAST = 0.5  # A1
_REPEATS = {2: 0.6, 3: 0.4}  # A2, by the number of options; else a third
_SPLIT = {2: 1.0, 3: 0.75}  # A2 where views split; else a half
_RATIO = 1.5  # A2
_STEPS = 64
_KNOWN = 0.1


@dataclass(frozen=True, slots=True)
class Range:
    """The noise rates ``low`` to ``high`` that ``n`` untrusted labels allow; ``trusted`` rows narrowed them.

    ``estimate`` is the middle where trusted rows leave a range at most 0.1 wide, else None: no point is identified.
    """

    low: float
    high: float
    n: int
    trusted: int = 0

    @property
    def estimate(self) -> float | None:
        """The middle of a range that trusted rows made narrow, else None."""
        narrow = self.trusted and self.high - self.low <= _KNOWN
        return (self.low + self.high) / 2 if narrow else None

    def to_json(self) -> dict[str, JSON]:
        """The figure as metrics.json has it."""
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
    """``rows``, in ``confirmed`` of which the label is confirmed; ``right`` and ``sure`` count trusted rows alike."""

    confirmed: int = 0
    rows: int = 0
    sure: int = 0
    right: int = 0

    def plus(self, confirmed: bool, n: int, trusted: bool) -> _Part:
        hits = n if confirmed else 0
        if trusted:
            return replace(self, sure=self.sure + hits, right=self.right + n)
        return replace(self, confirmed=self.confirmed + hits, rows=self.rows + n)


@dataclass(frozen=True, slots=True)
class _Table:
    """One set of views: the rows in which they agree, those in which they split, and those without an answer."""

    united: _Part
    split: _Part
    silent: int
    options: int

    @classmethod
    def of(cls, counts: Mapping[Pattern, int], views: Iterable[int], options: int) -> _Table:
        united, split, silent = _Part(), _Part(), 0
        chosen = tuple(views)
        for pattern, n in counts.items():
            said = {pattern.groups[v + 1] for v in chosen} - {-1}
            if len(said) == 1:
                united = united.plus(0 in said, n, pattern.trusted)
            elif said:
                split = split.plus(0 in said, n, pattern.trusted)
            elif not pattern.trusted:
                silent += n
        return cls(united, split, silent, options)

    @property
    def rows(self) -> int:
        return self.united.rows + self.split.rows + self.silent

    def low(self, z: float, assumed: bool) -> float:
        """The lower end; ``assumed`` takes A1 for these views, else only what trusted rows show."""
        parts = sum(
            part.rows
            * _lowest(_wilson(part.confirmed, part.rows, z)[1], _alpha(part, z, assumed)[0])
            for part in (self.united, self.split)
        )
        return parts / self.rows

    def high(self, z: float) -> float:
        """The upper end."""
        parts = self.united.rows * _highest(
            self.united, z, _REPEATS.get(self.options, 1 / 3), _RATIO
        )
        parts += self.split.rows * _highest(self.split, z, _SPLIT.get(self.options, 0.5), math.inf)
        return (parts + self.silent) / self.rows


def rate_range(counts: Mapping[Pattern, int], views: int) -> Range:
    """The range of the noise rate that ``counts`` of patterns over ``views`` views allow.

    Patterns without a label's answer are left out. Without a label or a view the range is 0 to 1.
    """
    used = {pattern: n for pattern, n in counts.items() if pattern.groups[0] == 0 and n > 0}
    n = sum(m for pattern, m in used.items() if not pattern.trusted)
    trusted = sum(used.values()) - n
    if not n or not views:
        return Range(0.0, 1.0, n, trusted)
    options = min((pattern.options for pattern in used if pattern.options > 1), default=0)
    tables = {names: _Table.of(used, names, options) for names in _subsets(views)}
    z = NormalDist().inv_cdf(1 - 0.025 / (1 if views == 1 else views + 1))
    everyone = tuple(range(views))
    firm = max(((v,) for v in everyone), key=lambda names: tables[names].united.confirmed)
    low = max(table.low(z, names in (everyone, firm)) for names, table in tables.items())
    high = min(table.high(z) for table in tables.values())
    # Assumptions that the table contradicts leave no rate; then only what both ends say is kept.
    return Range(min(low, high), max(low, high), n, trusted)


def _subsets(views: int) -> Sequence[tuple[int, ...]]:
    """Each view, each pair and all together."""
    sizes = {1, min(2, views), views}
    return [names for size in sorted(sizes) for names in combinations(range(views), size)]


def _wilson(hits: int, rows: int, z: float) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927); 0 to 1 where there are no rows."""
    if not rows:
        return 0.0, 1.0
    share, square = hits / rows, z * z / rows
    middle = share + square / 2
    half = z * math.sqrt(share * (1 - share) / rows + square / rows / 4)
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def _alpha(part: _Part, z: float, assumed: bool) -> tuple[float, float]:
    """The limits of alpha: A1 where it is ``assumed``, narrowed by trusted rows that do not contradict it."""
    low, high = _wilson(part.sure, part.right, z)
    return (max(low, _LEAST) if assumed and high > _LEAST else low), high


def _lowest(p: float, alpha: float) -> float:
    return max(0.0, 1.0 - p / alpha) if alpha > 0 else 0.0


def _highest(part: _Part, z: float, repeats: float, ratio: float) -> float:
    """The largest rho of equation (1) for one part, over all alpha and beta that are allowed."""
    p = _wilson(part.confirmed, part.rows, z)[0]
    if p >= 1.0:
        return 0.0
    low, high = _alpha(part, z, assumed=True)
    low = max(low, p)
    high = max(low, high)
    worst = 0.0
    for step in range(_STEPS + 1):
        alpha = low + (high - low) * step / _STEPS
        limit = ratio * (1 - alpha) if math.isfinite(ratio) else 1.0
        beta = min(repeats, limit, p)
        worst = max(worst, 1.0 if alpha <= beta else min(1.0, (alpha - p) / (alpha - beta)))
    return worst
