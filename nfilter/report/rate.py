"""The noise rate of a run as all reports show it: what a stage estimated, narrowed by rows that a person checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.metrics import figures
from nfilter.metrics.figures import Figure, Range
from nfilter.report import text

RECORD = "audit.json"
_ANY = 0.95
"""A range of the noise rate that is wider says nothing."""


def noise_rate(run_dir: Path, metrics: Mapping[str, Any]) -> Figure | Range | None:
    """The noise rate: a point with its interval where one is identified, else a range; None where nothing is known."""
    return figures.narrowed(figures.estimate(metrics), audited(run_dir))


def audited(run_dir: Path) -> Figure | None:
    """The noise rate that the run's answered audit found, with its 95% interval; None where there is none."""
    from nfilter.api.errors import DamageError, StoreError
    from nfilter.store.files import read_sealed

    path = run_dir / RECORD
    try:
        record = read_sealed(path, run_dir) if path.exists() else {}
    except DamageError as error:
        raise StoreError(
            f"{path}: {error.what}; put a whole copy back, or move it and audit.csv away and check rows anew"
        ) from error
    found = figures.lookup(record, "estimates.noise_rate") or {}
    mean, low, high = (found.get(key) for key in ("value", "low", "high"))
    if not (figures.is_number(mean) and figures.is_number(low) and figures.is_number(high)):
        return None
    return Figure(float(mean), None, 1, float(low), float(high))


def words(found: Figure | Range | None) -> str:
    """A noise rate as people read it."""
    if found is None:
        return "not known"
    if isinstance(found, Range):
        if found.high - found.low > _ANY:
            return "cannot be told: labels and views agree as they might at any rate; `nfilter audit RUN` or trusted labels tell it"
        over = f", means of {found.n} seeds" if found.n > 1 else ""
        return (
            f"between {text.percent(found.low)} and {text.percent(found.high)}{over}: no closer, as views may share "
            "mistakes; `nfilter audit RUN` or trusted labels narrow it"
        )
    said = f"an estimated {text.percent(found.mean)}"
    if found.sd is not None:
        return f"{said} ± {100 * found.sd:.1f}"
    if found.low is not None and found.high is not None:
        return f"{said} (95% interval {text.percent(found.low)} to {text.percent(found.high)})"
    return said
