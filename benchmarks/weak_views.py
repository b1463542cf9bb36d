"""How often the pilot finds a view weak, useful or undecided, for informative and uninformative views.

    python -m benchmarks.weak_views [--runs 400] [--seed 0]

Labels fall evenly on the wrong options; a view is right in a share of the rows and else falls evenly on the wrong options
too. After every 64 rows, up to 1,024, the view is judged as ``robustft.answer`` and ``robustft.reason`` judge theirs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nfilter_robustft.pilot import MAX_ROWS, STEP
from nfilter_robustft.statistics.chance_test import compare_with_chance


@dataclass(frozen=True, slots=True)
class Case:
    """A view and its labels. ``accuracy`` None: the view knows nothing, and says one option in a share ``favours``.

    ``options`` 0: open answers, of which no two wrong ones are equal.
    """

    options: int
    noise: float
    accuracy: float | None
    favours: float | None = None

    def __str__(self) -> str:
        kind = f"{self.options} options" if self.options else "open"
        if self.accuracy is not None:
            return f"{kind}, {self.noise:.0%} noise, right in {self.accuracy:.0%}"
        return f"{kind}, chance" + (f", one option in {self.favours:.0%}" if self.favours else "")


CASES = (
    *(Case(4, noise, accuracy) for noise in (0.3, 0.5, 0.7) for accuracy in (0.6, 0.9)),
    *(Case(3, noise, accuracy) for noise in (0.3, 0.5) for accuracy in (0.6, 0.9)),
    *(Case(2, noise, 0.9) for noise in (0.1, 0.3)),
    *(Case(10, noise, accuracy) for noise in (0.5, 0.7) for accuracy in (0.6, 0.9)),
    *(Case(0, 0.7, accuracy) for accuracy in (0.3, 0.6, 0.9)),
    *(Case(options, 0.5, None) for options in (2, 3, 4, 10)),
    *(Case(options, 0.5, None, 0.9) for options in (2, 3, 4, 10)),
    *(Case(0, 0.5, accuracy) for accuracy in (0.0, 0.03)),
)


def drawn(case: Case, rng: np.random.Generator) -> tuple[list[str], list[str], list[bool]]:
    """Return noisy labels, answers, and their agreement, of 1,024 rows."""
    n, k = MAX_ROWS, case.options or 10**9
    truth = rng.integers(k, size=n)
    labels = np.where(rng.random(n) < case.noise, (truth + rng.integers(1, k, size=n)) % k, truth)
    if case.accuracy is None:
        favours = case.favours or 1 / k
        answers = rng.choice(k, size=n, p=[favours, *[(1 - favours) / (k - 1)] * (k - 1)])
    else:
        slips = rng.integers(1, k, size=n)
        answers = np.where(rng.random(n) < case.accuracy, truth, (truth + slips) % k)
    return (
        [str(label) for label in labels],
        [str(answer) for answer in answers],
        (labels == answers).tolist(),
    )


def course(labels: Sequence[str], answers: Sequence[str], agree: Sequence[bool]) -> tuple[str, int]:
    """Return the verdict of a pilot, and the number of rows that it needed."""
    for n in range(STEP, MAX_ROWS + 1, STEP):
        found = compare_with_chance(labels[:n], answers[:n], agree[:n])
        if found.verdict != "open":
            break
    return found.verdict, n


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| view | weak | useful | open | rows, mean | rows, 90% |\n|---|---|---|---|---|---|")
    for case in CASES:
        rng = np.random.default_rng(given.seed)
        courses = [course(*drawn(case, rng)) for _ in range(given.runs)]
        shares = Counter(verdict for verdict, _ in courses)
        rows = [n for _, n in courses]
        cells = [f"{shares[name] / given.runs:.1%}" for name in ("weak", "useful", "open")]
        print(
            f"| {case} | {' | '.join(cells)} | {np.mean(rows):.0f} | {np.quantile(rows, 0.9):.0f} |"
        )


if __name__ == "__main__":
    main()
