"""The figures of a line from its cells: held-out loss over seeds, gain over controls, and figures of its mask."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.evidence.figures import Difference, Evidence, Spread, spread
from benchmarks.real_tokens.lines import FULL, RANDOM, TRUTH
from benchmarks.real_tokens.plan import own_control
from benchmarks.real_tokens.runner import share_kept
from benchmarks.token_evidence.figures import Mask, mask_of
from nfilter.metrics.intervals import Crossed

Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Figures:
    """One line at one level. ``saves`` has, by control, the loss of the control less its own: above 0 it is better."""

    name: str
    loss: Spread
    likely: Spread
    saves: Mapping[str, Difference | None]
    more_likely: Difference | None
    recovered: float | None
    bounds: tuple[float, float] | None
    kept: Spread | None
    mask: Mask
    noise_share: Spread | None
    steps: Spread | None
    seconds: Spread | None


def figures(evidence: Evidence, name: str, one: str, level: int) -> Figures | None:
    """Return the figures of a line at a level of the dataset ``one``; None if no seed has run."""
    cells = cells_of(evidence, name, one, level)
    if not cells:
        return None
    loss = spread([c["loss"] for c in cells])
    likely = spread([statistics.fmean(c["likely"].values()) for c in cells])
    assert loss is not None
    assert likely is not None
    controls = {control: saved(evidence, name, control, one, level) for control in (FULL, RANDOM, own_control(name))}  # fmt: skip
    return Figures(
        name, loss, likely, controls, saved(evidence, FULL, name, one, level, "likely") if name != FULL else None, *_recovered(evidence, name, one, level),
        spread([share_kept(c) for c in cells if c.get("training")]), mask_of(cells), spread([noise_share(c) for c in cells]),
        spread([c["training"]["steps"] for c in cells if c.get("training")]), spread([c["seconds"] for c in cells]),
    )  # fmt: skip


def noise_share(value: Mapping[str, Any]) -> float | None:
    """Return the fraction of noise among the tokens in the loss of a cell; None if no noise was inserted."""
    found = (value.get("tokens") or {}).get("token_noise") or {}
    if found.get("noise_kept") is None or found.get("signal_dropped") is None:
        return None
    noise = found["noise"] * found["noise_kept"]
    signal = (1 - found["noise"]) * (1 - found["signal_dropped"])
    return float(noise / (noise + signal)) if noise + signal else None


def cells_of(evidence: Evidence, name: str, one: str, level: int) -> list[dict[str, Any]]:
    """Return the finished cells of a line, one per seed; the untrained model has one for all seeds."""
    found = [evidence.of(name, one, level, seed) for seed in evidence.scope.seeds]
    by_key = {cell["cell"]["key"]: cell for cell in found if cell is not None}
    return list(by_key.values())


def saved(
    evidence: Evidence, name: str, control: str, one: str, level: int, part: str = "losses"
) -> Difference | None:
    """``part`` of the control less that of the line, over the seeds that have both: see ``difference``."""
    pairs = [
        (a[part], b[part])
        for seed in evidence.scope.seeds
        if (a := evidence.of(control, one, level, seed))
        and (b := evidence.of(name, one, level, seed))
    ]
    return difference(pairs) if name != control else None


def difference(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Difference | None:  # fmt: skip
    """The mean of a - b over seeds (a pair each) and test rows, crossed random effects; None of nothing, or of equals."""
    if not pairs or all(a == b for a, b in pairs):
        return None
    found = Crossed.of([[[side[row] for row in pairs[0][0]] for side in column] for column in zip(*pairs, strict=True)]).mean(1.0, -1.0)  # fmt: skip
    error = float("inf") if found.error is None else found.error
    return Difference(found.value, error, found.value - found.half, found.value + found.half, len(pairs))  # fmt: skip


def _recovered(
    evidence: Evidence, name: str, one: str, level: int
) -> tuple[float | None, tuple[float, float] | None]:
    """What share of the loss that the true mask saves over ``full`` a line saves, with its interval (Fieller).

    None where the true mask is not shown to save anything.
    """
    trio = [[evidence.of(line, one, level, seed) for line in (FULL, TRUTH, name)] for seed in evidence.scope.seeds]  # fmt: skip
    seeds = [[cell["losses"] for cell in found if cell] for found in trio if all(found)]
    if not seeds or name == FULL:
        return None, None
    values = [[[side[row] for row in seeds[0][0]] for side in column] for column in zip(*seeds, strict=True)]  # fmt: skip
    crossed = Crossed.of(values)
    below, above = crossed.mean(1.0, -1.0, 0.0), crossed.mean(1.0, 0.0, -1.0)
    if below.value - below.half <= 0:
        return None, None
    return above.value / below.value, crossed.ratio((1.0, 0.0, -1.0), (1.0, -1.0, 0.0))


def between_levels(evidence: Evidence, name: str, one: str, level: int) -> Difference | None:
    """Return the loss of a line at a level minus its loss without noise: the cost of the noise."""
    pairs = [
        (a["losses"], b["losses"])
        for seed in evidence.scope.seeds
        if (a := evidence.of(name, one, level, seed)) and (b := evidence.of(name, one, 0, seed))
    ]
    return difference(pairs) if level else None
