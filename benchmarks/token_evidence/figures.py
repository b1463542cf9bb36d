"""Cells into figures: means over seeds, paired differences to the random control, and why a line does not beat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.evidence.cells import Cells, arm_result
from benchmarks.evidence.figures import Difference, Spread, spread
from benchmarks.token_evidence.lines import Line
from benchmarks.token_evidence.runner import LINES, key_of

RANDOM: Final = "random"
MIXED_RANDOM: Final = "mixed, random"
_CHANCE: Final = 0.55  # an AUC under it tells noise from signal no better than a coin
_MUCH: Final = 0.25


@dataclass(frozen=True)
class Figures:
    """One line at one level. Shares are of the tokens whose truth is known; ``auc`` has one a score."""

    line: Line
    accuracy: Spread
    less_random: Difference | None
    noise: Spread | None
    noise_kept: Spread | None
    signal_dropped: Spread | None
    precision: Spread | None
    recall: Spread | None
    f1: Spread | None
    recalls: Mapping[str, Spread | None]
    auc: Mapping[str, Spread | None]

    @property
    def beats_random(self) -> bool:
        """Whether the interval of the difference lies above 0."""
        return self.less_random is not None and self.less_random.low > 0


def figures(cells: Cells, line: Line, percent: int, seeds: Sequence[int]) -> Figures | None:
    """The figures of a line over those seeds that are done; None where none is."""
    found = {seed: v for seed in seeds if (v := cells.get(key_of(line, percent, seed)))}
    if not found:
        return None
    noise = [(v.get("tokens") or {}).get("token_noise") or {} for v in found.values()]

    def mean(key: str) -> Spread | None:
        return spread([each.get(key) for each in noise])

    def by(part: str, *then: str) -> dict[str, Spread | None]:
        names = sorted({name for each in noise for name in each.get(part) or {}})
        return {
            name: spread([_at(each.get(part), name, *then) for each in noise]) for name in names
        }

    accuracy = spread([v["accuracy"] for v in found.values()])
    assert accuracy is not None
    return Figures(
        line, accuracy, less(cells, line, control_of(line), percent, seeds), mean("noise"),
        mean("noise_kept"), mean("signal_dropped"), mean("precision"), mean("recall"), mean("f1"),
        by("by_kind", "recall"), by("roc_auc"),
    )  # fmt: skip


def control_of(line: Line) -> Line:
    """The random mask over the same data."""
    return LINES[MIXED_RANDOM if line.mixed else RANDOM]


def less(
    cells: Cells, one: Line, other: Line, percent: int, seeds: Sequence[int]
) -> Difference | None:
    """Accuracy of ``one`` less that of ``other`` over the same test rows and seeds; None where there is no pair."""
    pairs = [
        (a, b)
        for seed in seeds
        if (a := cells.get(key_of(one, percent, seed)))
        and (b := cells.get(key_of(other, percent, seed)))
    ]
    if not pairs or one == other:
        return None
    return Difference.of([(arm_result(a, "one"), arm_result(b, "other")) for a, b in pairs])


def reason(found: Figures, random: Figures) -> str:
    """Why a line does not beat the random mask, read off its figures alone."""
    said = []
    main = {name: value for name, value in found.auc.items() if not name.startswith("loss.")}
    for name, value in main.items():
        if value is not None and value.mean < 1 - _CHANCE:
            said.append(f"`{name}` ranks noise above signal (ROC-AUC {value.mean:.2f})")
        elif value is not None and value.mean < _CHANCE:
            said.append(f"`{name}` does not tell noise from signal (ROC-AUC {value.mean:.2f})")
    if found.noise_kept is not None and found.noise_kept.mean > 0.5:
        kinds = [f"{kind} {1 - value.mean:.0%}" for kind, value in found.recalls.items() if value]
        said.append(
            f"{found.noise_kept.mean:.0%} of the noise stays in the loss ({', '.join(kinds)})"
        )
    if found.signal_dropped is not None and found.signal_dropped.mean > _MUCH:
        said.append(f"{found.signal_dropped.mean:.0%} of the signal is lost")
    if not said and found.noise_kept is None:
        said.append("it masks nothing, and its weights do not stop the noise")
    if found.less_random is not None and found.less_random.high >= 0:
        said.append("the difference is within the error of these seeds")
    return "; ".join(said) or (
        f"its mask is better than random's (noise kept {_percent(found.noise_kept)} against "
        f"{_percent(random.noise_kept)}), and training does not profit from it here"
    )


def _percent(value: Spread | None) -> str:
    return "–" if value is None else f"{value.mean:.0%}"


def _at(value: Any, *path: str) -> float | None:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None
