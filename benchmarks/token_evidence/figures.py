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
_HIGH_IS_NOISE: Final = ("perplexity",)
"""Scores of which a method takes the high ones for noise."""


@dataclass(frozen=True)
class Mask:
    """What a line's mask does, over seeds. Shares are of the tokens whose truth is known; ``auc`` has one a score."""

    noise: Spread | None
    noise_kept: Spread | None
    signal_dropped: Spread | None
    precision: Spread | None
    recall: Spread | None
    f1: Spread | None
    recalls: Mapping[str, Spread | None]
    auc: Mapping[str, Spread | None]


@dataclass(frozen=True)
class Figures:
    """One line at one level."""

    line: Line
    accuracy: Spread
    less_random: Difference | None
    mask: Mask

    @property
    def beats_random(self) -> bool:
        """Whether the interval of the difference lies above 0."""
        return self.less_random is not None and self.less_random.low > 0


def figures(cells: Cells, line: Line, percent: int, seeds: Sequence[int]) -> Figures | None:
    """The figures of a line over those seeds that are done; None where none is."""
    found = {seed: v for seed in seeds if (v := cells.get(key_of(line, percent, seed)))}
    if not found:
        return None
    accuracy = spread([v["accuracy"] for v in found.values()])
    assert accuracy is not None
    gap = less(cells, line, control_of(line), percent, seeds)
    return Figures(line, accuracy, gap, mask_of(list(found.values())))


def mask_of(values: Sequence[Mapping[str, Any]]) -> Mask:
    """The mask of a line, from its cells (one a seed)."""
    noise = [(v.get("tokens") or {}).get("token_noise") or {} for v in values]

    def mean(key: str) -> Spread | None:
        return spread([each.get(key) for each in noise])

    def by(part: str, *then: str) -> dict[str, Spread | None]:
        names = sorted({name for each in noise for name in each.get(part) or {}})
        return {
            name: spread([_at(each.get(part), name, *then) for each in noise]) for name in names
        }

    return Mask(
        mean("noise"), mean("noise_kept"), mean("signal_dropped"), mean("precision"), mean("recall"), mean("f1"),
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
    told = faults(found.mask)
    if not told and found.mask.noise_kept is None:
        told.append("it masks nothing, and its weights do not stop the noise")
    if found.less_random is not None and found.less_random.high >= 0:
        told.append("the difference is within the error of these seeds")
    return "; ".join(told) or (
        f"its mask is better than random's (noise kept {_percent(found.mask.noise_kept)} against "
        f"{_percent(random.mask.noise_kept)}), and training does not profit from it here"
    )


def faults(mask: Mask) -> list[str]:
    """What is wrong with a mask: scores that do not tell noise from signal, noise that stays, signal that is lost."""
    told = []
    main = {name: value for name, value in mask.auc.items() if not name.startswith("loss.")}
    for name, value in main.items():
        if value is None:
            continue
        auc = 1 - value.mean if name in _HIGH_IS_NOISE else value.mean
        if auc < 1 - _CHANCE:
            told.append(f"`{name}` takes signal for noise (ROC-AUC {value.mean:.2f})")
        elif auc < _CHANCE:
            told.append(f"`{name}` does not tell noise from signal (ROC-AUC {value.mean:.2f})")
    if mask.noise_kept is not None and mask.noise_kept.mean > 0.5:
        kinds = [f"{kind} {1 - value.mean:.0%}" for kind, value in mask.recalls.items() if value]
        told.append(
            f"{mask.noise_kept.mean:.0%} of the noise stays in the loss ({', '.join(kinds)})"
        )
    if mask.signal_dropped is not None and mask.signal_dropped.mean > _MUCH:
        told.append(f"{mask.signal_dropped.mean:.0%} of the signal is lost")
    return told


def _percent(value: Spread | None) -> str:
    return "–" if value is None else f"{value.mean:.0%}"


def _at(value: Any, *path: str) -> float | None:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None
