"""Whether the range of ``robustft.check`` holds the noise rate where views share mistakes, and how wide it is.

Two families of annotators, the label being one of them. *Factor*: in a share f of the rows all views take one draw and one
wrong answer in common, so that they are wrong together; in a share g of the rows the label takes the same draw.
*Difficulty*: questions differ in difficulty for label and views alike (normal, on the logit scale), and a wrong answer
is, with probability s, the question's tempting one. Wrong answers are otherwise uniform over the other options, or over
1,000 for open answers.

    python -m benchmarks.noise_range [--repeats 3] [--rows 1000]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import product

import numpy as np
import numpy.typing as npt

from nfilter_robustft.statistics.bounds import rate_range
from nfilter_robustft.statistics.posterior import Pattern, estimate

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_OPEN = 1000
VIEWS = (1, 2, 3, 4)
ACCURACIES = ((0.5,) * 4, (0.6, 0.5, 0.7, 0.55), (0.7,) * 4, (0.85, 0.6, 0.95, 0.7), (0.95,) * 4)
NOISE = (0.02, 0.1, 0.3, 0.5, 0.8)
OPTIONS = (2, 3, 4, 10, 0)
# (all views, label too): in how many of the rows mistakes are shared.
SHARED = ((0.0, 0.0), (0.3, 0.0), (0.3, 0.3), (0.6, 0.0), (0.6, 0.3), (0.9, 0.0), (0.9, 0.3))


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting. ``options`` 0 is open answers; ``trusted`` rows are drawn from those with a right label."""

    views: int
    accuracy: tuple[float, ...]
    noise: float
    options: int
    shared: tuple[float, float]
    trusted: int = 0


def grid(trusted: int = 0) -> Iterator[Cell]:
    """The whole grid."""
    for values in product(VIEWS, ACCURACIES, NOISE, OPTIONS, SHARED):
        yield Cell(*values, trusted)


def factor(cell: Cell, rows: int, rng: np.random.Generator) -> Ints:
    """Answers [rows, 1 + views] of the label and the views; 0 is the truth."""
    k = cell.options or _OPEN
    common, tempting = rng.random(rows), rng.integers(1, k, rows)
    together = rng.random(rows) < cell.shared[0]
    label_too = together & (rng.random(rows) < cell.shared[1] / max(cell.shared[0], 1e-9))

    def annotate(right: float, joined: Bools) -> Ints:
        drawn = np.where(joined, common, rng.random(rows))
        wrong = np.where(joined, tempting, rng.integers(1, k, rows))
        return np.where(drawn < right, 0, wrong)

    views = [annotate(right, together) for right in cell.accuracy[: cell.views]]
    return np.stack([annotate(1 - cell.noise, label_too), *views], axis=1)


def difficulty(
    accuracy: Sequence[float], spread: float, shared: float, options: int, rows: int,
    rng: np.random.Generator,
) -> Ints:  # fmt: skip
    """Answers [rows, annotators] at these accuracies; 0 is the truth."""
    k = options or _OPEN
    hard, tempting = rng.normal(0, spread, rows), rng.integers(1, k, rows)

    def annotate(right: float) -> Ints:
        low, high = -20.0, 20.0
        while high - low > 1e-6:  # the skill at which the mean over questions is ``right``
            skill = (low + high) / 2
            low, high = (skill, high) if _logistic(skill - hard).mean() < right else (low, skill)
        falls = rng.random(rows) < shared
        wrong = np.where(falls, tempting, rng.integers(1, k, rows))
        return np.where(rng.random(rows) < _logistic(skill - hard), 0, wrong)

    return np.stack([annotate(right) for right in accuracy], axis=1)


def _logistic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def table_of(answers: Ints, options: int, trusted: Bools) -> Mapping[Pattern, int]:
    """The agreement table of ``answers`` [rows, annotators]."""
    groups = np.zeros_like(answers)
    fresh = np.ones(len(answers), dtype=np.int64)
    for j in range(1, answers.shape[1]):
        groups[:, j] = fresh
        for i in reversed(range(j)):
            same = answers[:, i] == answers[:, j]
            groups[same, j] = groups[same, i]
        fresh += groups[:, j] == fresh
    unique, n = np.unique(np.column_stack([groups, trusted]), axis=0, return_counts=True)
    return Counter(
        {
            Pattern(tuple(row[:-1]), options, (), bool(row[-1])): int(count)
            for row, count in zip(unique.tolist(), n, strict=True)
        }
    )


def seen(answers: Ints, options: int, trusted: int = 0) -> tuple[Mapping[Pattern, int], float]:
    """The agreement table with so many trusted rows, and the noise rate of the others."""
    marked = np.zeros(len(answers), dtype=bool)
    marked[np.flatnonzero(answers[:, 0] == 0)[:trusted]] = True
    return table_of(answers, options, marked), float((answers[~marked, 0] != 0).mean())


@dataclass(frozen=True, slots=True)
class Result:
    """One draw of a cell."""

    cell: Cell
    covered: bool
    width: float


def trial(cell: Cell, rows: int, rng: np.random.Generator) -> Result:
    """Draw a data set and see whether the range holds its noise rate."""
    table, wrong = seen(factor(cell, rows, rng), cell.options, cell.trusted)
    found = rate_range(table, cell.views)
    return Result(cell, found.low <= wrong <= found.high, found.high - found.low)


def show(results: Sequence[Result]) -> None:
    """Print coverage and median width, over all and by each setting."""
    _line("all", results)
    for place, field in enumerate(fields(Cell)[:-1]):
        for value in sorted({astuple(result.cell)[place] for result in results}, key=str):
            part = [result for result in results if astuple(result.cell)[place] == value]
            _line(f"{field.name} {value}", part)


def _line(name: str, results: Sequence[Result]) -> None:
    coverage = np.mean([result.covered for result in results])
    width = np.median([result.width for result in results])
    print(f"| {name} | {len(results)} | {coverage:.3f} | {width:.2f} |")


def _difficulty(rows: int, repeats: int, rng: np.random.Generator) -> None:
    accuracy = (0.22, 0.39, 0.35, 0.56)
    for spread, shared in product((1.0, 2.0), (0.2, 0.4, 0.6)):
        for place in range(4) if repeats else ():
            turned = (accuracy[place], *accuracy[:place], *accuracy[place + 1 :])
            table, wrong = seen(difficulty(turned, spread, shared, 0, rows, rng), 0)
            found, alone = rate_range(table, 3), estimate(table, ["a", "b", "c"])
            held = "yes" if found.low <= wrong <= found.high else "no"
            print(
                f"| {spread} | {shared} | {wrong:.3f} | {found.low:.3f} to {found.high:.3f} | {held} | "
                f"{alone.rate:.3f} [{alone.low:.3f}, {alone.high:.3f}] |"
            )


def main() -> None:
    """Print the tables of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for trusted in (0, 100):
        print(
            f"\n{trusted} trusted rows\n\n| setting | draws | coverage | median width |\n|---|---|---|---|"
        )
        show([trial(cell, args.rows, rng) for cell in grid(trusted) for _ in range(args.repeats)])
    print(
        "\n| difficulty | shared | true rate | range | held | if independent |\n|---|---|---|---|---|---|"
    )
    _difficulty(args.rows, args.repeats, rng)


if __name__ == "__main__":
    main()
