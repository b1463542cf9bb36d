"""Log messages of ``robustft.check`` about the dataset: weak views, the cutoff, and the noise rate."""

from __future__ import annotations

from collections.abc import Mapping

from nfilter import Context
from nfilter_robustft.statistics.bounds import Range
from nfilter_robustft.statistics.cutoff import Cutoff
from nfilter_robustft.statistics.posterior import Estimate

_WIDE = 0.4


def log_weak(weak: Mapping[str, int], views: int, rows: int, ctx: Context) -> bool:
    """Log the views without a vote on any of ``rows`` rows; return whether all ``views`` views are weak."""
    without = [view for view, n in weak.items() if n == rows]
    if not without:
        return False
    names = " and ".join(without)
    if len(without) == views:
        ctx.log.warning(
            f"no view has a vote: {names} {'are' if views > 1 else 'is'} no better than chance. No label can be flagged, and every "
            "sample is kept; give the check a view of another kind (robustft.neighbors) or of a stronger model"
        )
    else:
        ctx.log.info(
            f"{names} {'have' if len(without) > 1 else 'has'} no vote: no better than chance; the other views decide"
        )
    return len(without) == views


def log_cutoff(cutoff: Cutoff, setting: str, highest: float, ctx: Context) -> None:
    """Log the number of flagged labels and their expected precision."""
    basis = (
        f"calibrated on {cutoff.trusted} trusted rows"
        if cutoff.trusted
        else "if label and views err independently; shared mistakes lower it. Trusted rows (trusted: COLUMN) "
        "calibrate it, nfilter audit RUN measures it"
    )
    if cutoff.precision is None:
        ctx.log.warning(
            f"{setting}: no label is flagged; the highest expected precision of any cutoff is {highest:.2f}, {basis}"
        )
        return
    ctx.log.info(
        f"{setting}: the {cutoff.flagged} of {cutoff.ranked} labels with the highest noise scores are flagged; {cutoff.precision:.0%} "
        f"of them are expected to be wrong, {basis}"
    )


def log_rate(rates: Range, fitted: Estimate, ctx: Context) -> None:
    """Log the range of the noise rate, and its estimate under independent errors."""
    middle = rates.estimate
    start = "" if middle is None else f"estimated noise rate {middle:.2f}: "
    trusted = f" (with {rates.trusted} trusted labels)" if rates.trusted else ""
    ctx.log.info(
        f"{start}noise rate between {rates.low:.2f} and {rates.high:.2f}{trusted}: all of these are consistent with the "
        f"agreement of labels and views, because views may share mistakes. If label and views erred independently, it "
        f"would be {fitted.rate:.2f} ({fitted.low:.2f}-{fitted.high:.2f}); mistakes that views share with each other "
        "make this estimate too high, mistakes that they share with the label too low"
    )
    if rates.high - rates.low > _WIDE:
        ctx.log.warning(
            "the views do not distinguish wrong labels from their own mistakes: give the check trusted labels (trusted: "
            "COLUMN) or a view of another kind, or check a sample by hand (nfilter audit RUN)"
        )
    if not fitted.converged:
        ctx.log.warning("the fit of the noise scores did not converge; the scores are inaccurate")
