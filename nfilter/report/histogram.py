"""Noise scores as bars: the numbers behind an inline picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 20
WIDTH = 640
HEIGHT = 160


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the picture, in its units from the top left: flagged rows stand on those without a flag."""

    x: float
    width: float
    plain_y: float
    plain_height: float
    flagged_y: float
    flagged_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A histogram of ``count`` scores; ``most`` is the height of the tallest bar in rows."""

    bars: Sequence[Bar]
    count: int
    flagged: int
    most: int
    width: int = WIDTH
    height: int = HEIGHT


def histogram(scores: Sequence[tuple[float, bool]]) -> Chart | None:
    """Pairs of a noise score in [0, 1] and whether the row is flagged; None where there are none."""
    if not scores:
        return None
    counts = [[0, 0] for _ in range(BINS)]
    for score, is_flagged in scores:
        counts[min(BINS - 1, max(0, int(score * BINS)))][int(is_flagged)] += 1
    most = max(sum(pair) for pair in counts)
    step = WIDTH / BINS
    bars = []
    for number, (unflagged, flagged) in enumerate(counts):
        low = HEIGHT * unflagged / most
        high = HEIGHT * flagged / most
        bars.append(
            Bar(
                x=round(number * step + 1, 2),
                width=round(step - 2, 2),
                plain_y=round(HEIGHT - low, 2),
                plain_height=round(low, 2),
                flagged_y=round(HEIGHT - low - high, 2),
                flagged_height=round(high, 2),
                title=f"{number / BINS:.2f} to {(number + 1) / BINS:.2f}: {unflagged} not flagged, {flagged} flagged",
            )
        )
    return Chart(bars, len(scores), sum(is_flagged for _, is_flagged in scores), most)
