"""What a run is expected to ask and to cost, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfilter.api.durations import duration, speed
from nfilter.report import text

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 24


def render(plan: Any, console: Console) -> None:
    """Print a plan: what every stage asks, the sum, and what the intervals mean."""
    if not plan.stages:
        console.print(f"{plan.rows:,} rows; no stage asks a model anything", markup=False)
        _training(plan, console)
        return
    text.heading(console, f"{plan.rows:,} rows: calls, prompt tokens + answer tokens, dollars")
    text.rows(console, [(stage.stage, _asks(stage)) for stage in plan.stages], width=_WIDTH)
    text.rows(console, [("in all", f"{dollars(plan.usd)}{_against(plan)}")], width=_WIDTH)
    text.heading(
        console, "Usual (at least to at most), before any answer that the journal has already"
    )
    _times(plan, console)
    _training(plan, console)


def _times(plan: Any, console: Console) -> None:
    """Print how long models of this machine take, or how that is found out."""
    local = [stage for stage in plan.stages if stage.local]
    known = [stage for stage in local if stage.seconds is not None]
    if known:
        text.rows(console, [(stage.stage, hours(stage)) for stage in known], width=_WIDTH)
    if len(known) < len(local):
        console.print(
            "How long models of this machine take is measured by a run: nfilter run RECIPE --limit 64, then plan again. No answer is "
            "asked for twice",
            markup=False,
        )


def hours(stage: Any) -> str:
    """``about 2 h 10 min (45 min to 5 h 00 min) at 310 tokens/s``."""
    low, usual, high = (
        duration(each) for each in (stage.seconds.low, stage.seconds.usual, stage.seconds.high)
    )
    spread = "" if low == high else f" ({low} to {high})"
    return f"{stage.model}: about {usual}{spread}, at {speed(stage.tokens_per_second)}"


def _training(plan: Any, console: Console) -> None:
    """Print what the trainer would choose for these rows."""
    if plan.training:
        text.rows(console, [("training", plan.training)], width=_WIDTH)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False)


def _asks(stage: Any) -> str:
    tokens = f"{count(stage.prompt_tokens)} + {count(stage.completion_tokens)}"
    return f"{stage.model}: {count(stage.calls)}, {tokens}, {dollars(stage.usd)}"


def count(value: Any) -> str:
    """``1,200 (800 to 2,000)``, or one number where nothing is open."""
    low, usual, high = (round(each) for each in (value.low, value.usual, value.high))
    return f"{usual:,}" if low == high else f"{usual:,} ({low:,} to {high:,})"


def dollars(value: Any) -> str:
    """``$1.20 ($0.80 to $2.00)``; ``local`` where nothing costs, and what is not known says so."""
    if value is None:
        return "no known price"
    if value.high == 0:
        return "local"
    low, usual, high = (_money(each) for each in (value.low, value.usual, value.high))
    return usual if low == high else f"{usual} ({low} to {high})"


def _money(value: float) -> str:
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"


def _against(plan: Any) -> str:
    if plan.budget is None:
        return ""
    cap = f"; the budget of ${plan.budget:g}"
    if plan.usd is None:
        return f"{cap} needs prices: set price: {{prompt: 0.15, completion: 0.6}} on the model"
    if plan.usd.high <= plan.budget:
        return f"{cap} covers it"
    return f"{cap} {'may end the run early' if plan.usd.low <= plan.budget else 'is too small'}"
