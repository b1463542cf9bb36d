"""Histograms of scores: the numbers of an inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 20
WIDTH = 640
HEIGHT = 160


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in SVG units from the top left; the marked part is on top of the plain part."""

    x: float
    width: float
    plain_y: float
    plain_height: float
    flagged_y: float
    flagged_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A histogram of ``count`` scores from ``low`` to ``high``, ``flagged`` of them marked.

    ``most`` is the count of the tallest bar; ``undefined`` scores are in no bar.
    """

    bars: Sequence[Bar]
    count: int
    flagged: int
    most: int
    low: str = "0"
    high: str = "1"
    undefined: int = 0
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def ticks(self) -> list[tuple[float, str, str]]:
        """The places of the axis below the bars, with their text and how it stands there; both ends alone for values in words."""
        try:
            low, high = float(self.low), float(self.high)
        except ValueError:
            return [(0.0, self.low, "start"), (float(self.width), self.high, "end")]
        parts = [(part / 4, low + (high - low) * part / 4) for part in range(5)]
        stands = ("start", "middle", "middle", "middle", "end")
        return [
            (at * self.width, f"{value:.3g}", stand)
            for (at, value), stand in zip(parts, stands, strict=True)
        ]


def histogram(scores: Sequence[tuple[float, bool]]) -> Chart | None:
    """Return the histogram of pairs of a noise score in [0, 1] and whether the row is flagged; None if there are none."""
    if not scores:
        return None
    counts = [[0] * BINS, [0] * BINS]
    for score, is_flagged in scores:
        counts[is_flagged][min(BINS - 1, max(0, int(score * BINS)))] += 1
    edges = [f"{number / BINS:.2f}" for number in range(BINS + 1)]
    return stacked(counts[0], counts[1], edges, ("not flagged", "flagged"))


def stacked(
    plain: Sequence[int],
    marked: Sequence[int],
    edges: Sequence[str],
    names: tuple[str, str],
    undefined: int = 0,
) -> Chart | None:
    """Return the histogram of counts per bin; ``edges`` has one more item than bins. None if all counts are 0."""
    most = max(a + b for a, b in zip(plain, marked, strict=True))
    if not most:
        return None
    step = WIDTH / len(plain)
    bars = []
    for number, (under, over) in enumerate(zip(plain, marked, strict=True)):
        low = HEIGHT * under / most
        high = HEIGHT * over / most
        bars.append(
            Bar(
                x=round(number * step + 1, 2),
                width=round(step - 2, 2),
                plain_y=round(HEIGHT - low, 2),
                plain_height=round(low, 2),
                flagged_y=round(HEIGHT - low - high, 2),
                flagged_height=round(high, 2),
                title=f"{edges[number]} to {edges[number + 1]}: {under} {names[0]}, {over} {names[1]}",
            )
        )
    return Chart(bars, sum(plain) + sum(marked), sum(marked), most, edges[0], edges[-1], undefined)
