"""Coverage of the 95% intervals: simulated seeds that answer the same test rows.

    python -m benchmarks.interval_coverage [--trials 400]

A row has a difficulty of its own (chance .1, .5 or .9 of a right answer), which every seed and arm meets; a seed moves
the chances of all rows. Beside the new coverage stands that of the formula used before: 1.96 times the larger of the
standard error between seeds and that of the rows, as if every seed had rows of its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nfilter.metrics.intervals import Crossed

Floats = npt.NDArray[np.float64]
CHANCES: Final = (0.1, 0.5, 0.9)
SHARES: Final = (0.3, 0.2, 0.5)
MEAN: Final = 0.58  # of CHANCES
SEEDS: Final = (3, 5)
SEED_SDS: Final = (0.0, 0.01, 0.03)
ROWS: Final = (303, 2000)
MOST: Final = 0.1  # a seed moves no chance out of [0, 1]


@dataclass(frozen=True)
class Kind:
    """An estimated quantity: ``draw(rng, seeds, rows, sd)`` returns arms [k, seeds, rows], combined by ``weights``."""

    name: str
    draw: Callable[[np.random.Generator, int, int, float], Floats]
    weights: tuple[float, ...]
    true: float


def rows_of(rng: np.random.Generator, rows: int) -> Floats:
    return rng.choice(CHANCES, p=SHARES, size=rows)


def answers(rng: np.random.Generator, chance: Floats, seeds: int, sd: float) -> Floats:
    """Return answers, correct (1) or wrong (0), [seeds, rows]."""
    moved = chance + np.clip(rng.normal(0, sd, (seeds, 1)), -MOST, MOST)
    return (rng.random((seeds, len(chance))) < moved).astype(np.float64)


def one_arm(rng: np.random.Generator, seeds: int, rows: int, sd: float) -> Floats:
    return answers(rng, rows_of(rng, rows), seeds, sd)[None]


def two_arms(rng: np.random.Generator, seeds: int, rows: int, sd: float) -> Floats:
    """Seven of ten rows are equally hard for both arms; ``sd`` is the standard deviation of the difference."""
    a = rows_of(rng, rows)
    b = np.where(rng.random(rows) < 0.7, a, rows_of(rng, rows))
    return np.stack([answers(rng, chance, seeds, sd / math.sqrt(2)) for chance in (a, b)])


def same_rows(rng: np.random.Generator, seeds: int, rows: int, sd: float) -> Floats:
    """Every row is equally hard for both arms: the difference has no row effect."""
    a = rows_of(rng, rows)
    return np.stack([answers(rng, a, seeds, sd / math.sqrt(2)) for _ in range(2)])


def untrained(rng: np.random.Generator, seeds: int, rows: int, sd: float) -> Floats:
    """The second arm gives equal answers in every seed, like an untrained model."""
    a = rows_of(rng, rows)
    fixed = answers(rng, a, 1, 0.0)
    return np.stack([answers(rng, a, seeds, sd), np.repeat(fixed, seeds, axis=0)])


def three_arms(rng: np.random.Generator, seeds: int, rows: int, sd: float) -> Floats:
    """Arms raw, cleaned and truth: truth makes half of the rows easy, cleaned half of these."""
    raw, easier = rows_of(rng, rows), rng.random(rows)
    cleaned, truth = (np.where(easier < share, CHANCES[-1], raw) for share in (0.25, 0.5))
    return np.stack([answers(rng, p, seeds, sd / math.sqrt(2)) for p in (raw, cleaned, truth)])


KINDS: Final = (
    Kind("an arm", one_arm, (1.0,), MEAN),
    Kind("a difference", two_arms, (1.0, -1.0), 0.0),
    Kind("a difference without row effects", same_rows, (1.0, -1.0), 0.0),
    Kind("a difference to an untrained arm", untrained, (1.0, -1.0), 0.0),
)


def before(values: Floats) -> tuple[float, float]:
    """Return mean and half width of values [seeds, rows] by the earlier formula."""
    seeds, rows = values.shape
    between = float(values.mean(axis=1).std(ddof=1)) / math.sqrt(seeds)
    within = math.sqrt(float((values.var(axis=1, ddof=1) / rows).sum())) / seeds
    return float(values.mean()), 1.96 * max(between, within)


def coverage(
    kind: Kind, seeds: int, rows: int, sd: float, trials: int, start: int = 0
) -> tuple[float, float, float]:
    """Return the fraction of intervals that contain the true value, by both formulas, and the mean half width."""
    rng = np.random.default_rng([start, seeds, rows, round(1000 * sd)])
    new = old = 0
    width = 0.0
    for _ in range(trials):
        values = kind.draw(rng, seeds, rows, sd)
        found = Crossed.of(values).mean(*kind.weights)
        mean, half = before(np.tensordot(kind.weights, values, axes=1))
        new += abs(found.value - kind.true) <= found.half
        old += abs(mean - kind.true) <= half
        width += found.half
    return new / trials, old / trials, width / trials


def ratio_coverage(
    seeds: int, rows: int, sd: float, trials: int, start: int = 0
) -> tuple[float, float, float]:
    """The same of recovered = (cleaned - raw) / (truth - raw) = .5: coverage where the ratio is shown (its denominator
    is over three standard errors), the share of trials where it is, and the share of these without bounds.
    """
    rng = np.random.default_rng([start, seeds, rows, round(1000 * sd), 3])
    shown = held = unbounded = 0
    for _ in range(trials):
        crossed = Crossed.of(three_arms(rng, seeds, rows, sd))
        below = crossed.mean(-1.0, 0.0, 1.0)
        if below.error is None or below.value <= 3 * below.error:
            continue
        shown += 1
        ends = crossed.ratio((-1.0, 1.0, 0.0), (-1.0, 0.0, 1.0))
        unbounded += ends is None
        held += ends is None or ends[0] <= 0.5 <= ends[1]
    return held / max(1, shown), shown / trials, unbounded / max(1, shown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--start", type=int, default=0, help="the start of the random numbers")
    options = parser.parse_args()
    print("| what | seeds | rows | seed sd | covers | before | half width |\n" + "| --- " * 7 + "|")
    for kind in KINDS:
        for seeds in SEEDS:
            for rows in ROWS:
                for sd in SEED_SDS:
                    new, old, width = coverage(kind, seeds, rows, sd, options.trials, options.start)
                    print(
                        f"| {kind.name} | {seeds} | {rows} | {sd:g} | {new:.3f} | {old:.3f} | {width:.3f} |",
                        flush=True,
                    )
    print(
        "\n| recovered | seeds | rows | seed sd | covers | shown | without bounds |\n"
        + "| --- " * 7
        + "|"
    )
    for seeds in SEEDS:
        for rows in ROWS:
            for sd in SEED_SDS:
                held, shown, free = ratio_coverage(seeds, rows, sd, options.trials, options.start)
                print(
                    f"| recovered | {seeds} | {rows} | {sd:g} | {held:.3f} | {shown:.3f} | {free:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
