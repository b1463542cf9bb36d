"""Whether a table of agreement patterns supports a probability per label at all.

The model of ``posterior`` gives a probability for any table, also for five rows, and takes two views with the same mistakes for two
witnesses. Below a number of rows no interval corrects that. With K options, a view that knows nothing agrees with a label, right or
wrong, with probability 1/K; if no view agrees with more labels than that, the table is as likely with right labels and views that
know nothing. Trusted rows measure the views, whatever share of the other labels is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

from nfilter import wilson
from nfilter_robustft.statistics.posterior import Pattern

LEAST = 20  # rows with a readable label; as many trusted rows measure the views by themselves


def lack_of_support(counts: Mapping[Pattern, int], views: int) -> str | None:
    """Return why no probability of a wrong label follows from the ``counts`` over ``views`` views; None if one does.

    The test of each view against chance is one-sided, of 2.5% divided by the number of views (Wilson interval).
    """
    used = {pattern: n for pattern, n in counts.items() if pattern.groups[0] == 0 and n > 0}
    rows = sum(used.values())
    if rows < LEAST:
        return (
            f"{rows} rows with a readable label are too few for probabilities, which need {LEAST}"
        )
    trusted = sum(n for pattern, n in used.items() if pattern.trusted)
    if trusted >= LEAST or any(pattern.options < 2 for pattern in used):
        return None
    z = NormalDist().inv_cdf(1 - 0.025 / max(views, 1))
    if any(_beats_chance(used, view + 1, z) for view in range(views)):
        return None
    return "no view agrees with the labels more often than chance"


def _beats_chance(used: Mapping[Pattern, int], place: int, z: float) -> bool:
    """Test whether the answers at ``place`` agree with more labels than answers drawn at random would."""
    answered = [(p, n) for p, n in used.items() if p.groups[place] >= 0]
    rows = sum(n for _, n in answered)
    if not rows:
        return False
    expected = sum(n / pattern.options for pattern, n in answered) / rows
    interval = wilson(sum(n for p, n in answered if p.groups[place] == 0), rows, z)
    return interval is not None and interval[0] > expected
