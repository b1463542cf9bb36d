"""What the checker tells of a whole dataset: how many labels a cut flags, the noise rate, and the views that have no vote."""

from __future__ import annotations

from collections.abc import Mapping

from nfilter import Context
from nfilter_robustft.bounds import Range
from nfilter_robustft.cut import Cut
from nfilter_robustft.posterior import Estimate

_WIDE = 0.4


def log_weak(weak: Mapping[str, int], views: int, rows: int, ctx: Context) -> bool:
    """Log which views have no vote on any of ``rows`` rows, as they are no better than chance; True where none is left."""
    without = [view for view, n in weak.items() if n == rows]
    if not without:
        return False
    named = " and ".join(without)
    if len(without) == views:
        ctx.log.warning(
            f"no view is left: {named} {'are' if views > 1 else 'is'} no better than chance. No label can be flagged, and every "
            "sample is kept; give the check a view of another kind (robustft.neighbors) or of a stronger model"
        )
    else:
        ctx.log.info(
            f"{named} {'have' if len(without) > 1 else 'has'} no vote, being no better than chance; the other views decide"
        )
    return len(without) == views


def log_cut(found: Cut, setting: str, highest: float, ctx: Context) -> None:
    """Log how many labels are flagged, and on what the expected precision rests."""
    rests = (
        f"as {found.trusted} trusted rows show"
        if found.trusted
        else "if label and views err independently; where they share mistakes it is lower. Trusted rows (trusted: COLUMN) "
        "calibrate it, nfilter audit RUN measures it"
    )
    if found.precision is None:
        ctx.log.warning(
            f"{setting}: no label is flagged; the highest precision that any cut is expected to have is {highest:.2f}, {rests}"
        )
        return
    ctx.log.info(
        f"{setting}: of {found.ranked} labels the {found.flagged} with the highest noise scores are flagged; {found.precision:.0%} "
        f"of them are expected to be wrong, {rests}"
    )


def log_rate(allowed: Range, fitted: Estimate, ctx: Context) -> None:
    """Log the range of the noise rate, and what it would be if views erred independently."""
    middle = allowed.estimate
    start = "" if middle is None else f"estimated noise rate {middle:.2f}: "
    rests = f", with {allowed.trusted} trusted labels" if allowed.trusted else ""
    ctx.log.info(
        f"{start}noise rate between {allowed.low:.2f} and {allowed.high:.2f}: the agreement of labels and views allows "
        f"all of these, as views may share mistakes{rests}; it would be {fitted.rate:.2f} ({fitted.low:.2f}-"
        f"{fitted.high:.2f}) if label and views erred independently. Mistakes that views share with each other make "
        "that figure too high, mistakes that they share with the label too low"
    )
    if allowed.high - allowed.low > _WIDE:
        ctx.log.warning(
            "the views do not tell a wrong label from their own mistakes: give the check trusted labels (trusted: "
            "COLUMN) or a view of another kind, or check a sample by hand (nfilter audit RUN)"
        )
    if not fitted.converged:
        ctx.log.warning("the fit of the noise scores did not converge; they are rough")
