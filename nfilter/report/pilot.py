"""The result of a pilot as text."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from nfilter.api.durations import duration
from nfilter.report import text
from nfilter.report.plan import whole_lines

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH: Final = 24


def render(pilot: Any, console: Console) -> None:
    """Print the changes, the views, the expected cost and time of all rows, and the advice."""
    text.heading(
        console,
        f"{pilot.rows:,} of {pilot.all_rows:,} rows, drawn at random; 95% intervals for all rows",
    )
    text.rows(
        console, [(name, _share(share, pilot)) for name, share in pilot.fates.items()], width=_WIDTH
    )
    if pilot.views:
        text.heading(console, "Views")
        text.rows(
            console,
            [(view.name, f"{_view(view)} ({view.stage})") for view in pilot.views],
            width=_WIDTH,
        )
    text.heading(
        console,
        f"All {pilot.all_rows:,} rows: calls, tokens, time",
    )
    text.rows(console, [(stage.stage, _cost(stage)) for stage in pilot.stages], width=_WIDTH)
    text.rows(console, list(_sums(pilot)), width=_WIDTH)
    text.heading(console, "Advice")
    for line in pilot.advice or ["nothing speaks against the whole run"]:
        console.print(f"   {text.plain(line)}", markup=False, highlight=False)
    text.heading(console, "Where to look next")
    quoted = shlex.quote(pilot.directory)
    for line in (
        f"{pilot.directory}/report.html",
        f"nfilter audit {quoted}    # check flags by hand",
    ):
        console.print(f"   {text.plain(line)}", markup=False, highlight=False, soft_wrap=True)


def _share(share: Any, pilot: Any) -> str:
    low, high = (round(bound * pilot.all_rows) for bound in (share.low, share.high))
    return f"{share.count} of {pilot.rows} ({text.percent(share.count / pilot.rows)}); of all rows {low:,} to {high:,}"


def _view(view: Any) -> str:
    if view.informative:
        return "better than chance"
    return f"no better than chance{f': {view.why}' if view.why else ''}"


def _cost(stage: Any) -> str:
    time = f"{'about' if stage.measured else 'at most'} {duration(stage.all_seconds)}"
    if not stage.calls:
        return f"no call; {time}"
    return f"about {stage.all_calls:,.0f} calls, {stage.all_tokens:,.0f} tokens; {time}"


def _sums(pilot: Any) -> list[tuple[str, str]]:
    time = pilot.plan.time
    if time is not None:
        lines = whole_lines(time)
    else:
        seconds = sum(stage.all_seconds for stage in pilot.stages)
        lines = [
            (
                "in all",
                f"at most {duration(seconds)} (loading models is counted per row), without training",
            )
        ]
    if pilot.usd:
        lines.append(("dollars", f"about ${pilot.all_usd:.2f} (the pilot: ${pilot.usd:.4f})"))
    if pilot.plan.training:
        lines.append(("settings", pilot.plan.training))
    return lines
