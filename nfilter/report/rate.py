"""The noise rate of a run as all reports show it: the estimate of a stage, narrowed by rows checked by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.api.errors import DamageError, StoreError
from nfilter.api.notes import is_number
from nfilter.metrics import figures
from nfilter.metrics.figures import Figure, Range
from nfilter.report import text
from nfilter.store.files import read_sealed

RECORD = "audit.json"
_ANY = 0.95
"""A wider range of the noise rate carries no information."""


def noise_rate(run_dir: Path, metrics: Mapping[str, Any]) -> Figure | Range | None:
    """Return the noise rate: a point with its interval if it is identified, else a range; None if it is unknown.

    Raises:
        StoreError: if the record of the audit is damaged.
    """
    return figures.narrowed(figures.estimate(metrics), audited(run_dir))


def audited(run_dir: Path) -> Figure | None:
    """Return the noise rate of the run's answered audit with its 95% interval; None if there is none.

    Raises:
        StoreError: if the record of the audit is damaged.
    """
    path = run_dir / RECORD
    try:
        record = read_sealed(path, run_dir) if path.exists() else {}
    except DamageError as error:
        raise StoreError(
            f"{path}: {error.what}; restore it from a backup, or move it and audit.csv away and check rows again"
        ) from error
    estimate = figures.lookup(record, "estimates.noise_rate") or {}
    mean, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if not (is_number(mean) and is_number(low) and is_number(high)):
        return None
    return Figure(float(mean), None, 1, float(low), float(high))


def rate_text(rate: Figure | Range | None) -> str:
    """Return a noise rate as text."""
    if rate is None:
        return "unknown"
    if isinstance(rate, Range):
        if rate.high - rate.low > _ANY:
            return "unknown: labels and views are consistent with any rate; `nfilter audit RUN` or trusted labels determine it"
        over = f", means of {rate.n} seeds" if rate.n > 1 else ""
        return (
            f"between {text.percent(rate.low)} and {text.percent(rate.high)}{over}: a range, because views may share "
            "errors; `nfilter audit RUN` or trusted labels narrow it"
        )
    return f"estimated {share_text(rate)}"


def share_text(share: Figure) -> str:
    """Return a share with its standard deviation over seeds, or its interval, if it has one."""
    percent = text.percent(share.mean)
    if share.sd is not None:
        return f"{percent} ± {100 * share.sd:.1f}"
    if share.low is not None and share.high is not None:
        return f"{percent} (95% interval {text.percent(share.low)} to {text.percent(share.high)})"
    return percent
