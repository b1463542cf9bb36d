"""The expected calls, cost and time of a run as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfilter.api.durations import duration, speed
from nfilter.report import text

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 24


def render(plan: Any, console: Console) -> None:
    """Print a plan: the calls of each stage, the sum, and the meaning of the intervals."""
    if not plan.stages:
        console.print(f"{plan.rows:,} rows; no stage calls a model", markup=False)
        _training(plan, console)
        _whole(plan, console)
        return
    text.heading(
        console,
        f"{plan.rows:,} rows: calls, prompt + completion tokens, dollars (lower to upper bound)",
    )
    text.rows(console, [(stage.stage, _asks(stage)) for stage in plan.stages], width=_WIDTH)
    text.rows(console, [("total", f"{dollars(plan.usd)}{_against(plan)}")], width=_WIDTH)
    console.print("Answers that are in the journal already are not counted.", markup=False)
    _times(plan, console)
    _training(plan, console)
    _whole(plan, console)


def whole_lines(time: Any) -> list[tuple[str, str]]:
    """Return the expected time of a whole run: training, testing, the sum."""
    lines = []
    if time.training is None:
        known = f"{time.steps:,} optimiser steps, " if time.steps is not None else ""
        lines.append(("training", f"{known}time not measured"))
    elif time.steps:
        lines.append(
            (
                "training",
                f"{time.steps:,} optimiser steps in all arms; about {duration(time.training)}",
            )
        )
    if time.evaluation is None:
        lines.append(("test", f"{time.questions:,} questions to all arms, time not measured"))
    elif time.questions:
        lines.append(
            ("test", f"{time.questions:,} questions to all arms; about {duration(time.evaluation)}")
        )
    left = [
        name
        for name, part in (("training", time.training), ("the test", time.evaluation))
        if part is None
    ]
    without = f", without {' and '.join(left)}" if left else ""
    once = f"; {duration(time.once)} of it once, such as loading models" if time.once >= 0.5 else ""
    return [*lines, ("in all", f"about {duration(time.known)}{without}{once}")]


def _whole(plan: Any, console: Console) -> None:
    """Print the time of a whole run, if a pilot measured it."""
    if plan.time is not None:
        text.heading(console, f"Time of all {plan.rows:,} rows, as the pilot measured it")
        stages = [(name, f"about {duration(each)}") for name, each in plan.time.stages.items()]
        text.rows(console, [*stages, *whole_lines(plan.time)], width=_WIDTH)


def _times(plan: Any, console: Console) -> None:
    """Print the time of local models, or how to measure it."""
    local = [stage for stage in plan.stages if stage.local]
    known = [stage for stage in local if stage.seconds is not None]
    if known:
        text.rows(console, [(stage.stage, hours(stage)) for stage in known], width=_WIDTH)
    if len(known) < len(local) and plan.time is None:
        console.print(
            "The speed of local models is measured by a run: nfilter run RECIPE --limit 64, then plan again. No call is "
            "repeated. nfilter pilot RECIPE measures the time of training too",
            markup=False,
        )


def hours(stage: Any) -> str:
    """Return e.g. ``expert: about 2 h 10 min (45 min to 5 h 00 min), at 310 tokens/s``."""
    low, usual, high = (
        duration(each) for each in (stage.seconds.low, stage.seconds.usual, stage.seconds.high)
    )
    spread = "" if low == high else f" ({low} to {high})"
    return f"{stage.model}: about {usual}{spread}, at {speed(stage.tokens_per_second)}"


def _training(plan: Any, console: Console) -> None:
    """Print the settings that the trainer would choose for these rows."""
    if plan.training:
        text.rows(console, [("training", plan.training)], width=_WIDTH)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False)


def _asks(stage: Any) -> str:
    tokens = f"{count(stage.prompt_tokens)} + {count(stage.completion_tokens)}"
    return f"{stage.model}: {count(stage.calls)}, {tokens}, {dollars(stage.usd)}"


def count(value: Any) -> str:
    """Return e.g. ``1,200 (800 to 2,000)``, or one number if the bounds are equal."""
    low, usual, high = (round(each) for each in (value.low, value.usual, value.high))
    return f"{usual:,}" if low == high else f"{usual:,} ({low:,} to {high:,})"


def dollars(value: Any) -> str:
    """Return e.g. ``$1.20 ($0.80 to $2.00)``, ``local`` or ``no known price``."""
    if value is None:
        return "no known price"
    if value.high == 0:
        return "local"
    low, usual, high = (_money(each) for each in (value.low, value.usual, value.high))
    return usual if low == high else f"{usual} ({low} to {high})"


def _money(value: float) -> str:
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"


def _against(plan: Any) -> str:
    """The budget compared with the expected cost."""
    if plan.budget is None:
        return ""
    cap = f"; the budget of ${plan.budget:g}"
    if plan.usd is None:
        return f"{cap} needs prices: set price: {{prompt: 0.15, completion: 0.6}} on the model"
    if plan.usd.high <= plan.budget:
        return f"{cap} covers it"
    return f"{cap} {'may end the run early' if plan.usd.low <= plan.budget else 'is too small'}"
