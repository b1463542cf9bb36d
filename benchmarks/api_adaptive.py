"""Ours finding its own number of calls at a time, beside fixed numbers, over sockets, against two servers with a limit.

One turns away what is more than ``CAPACITY`` calls at a time with a 429; one works on so many and lets others wait. The
client knows neither number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

CAPACITY = 96
LEVELS = (64, 96, 128)
SERVERS = {"more are turned away (429)": {"capacity": CAPACITY}, "more wait": {"slots": CAPACITY}}


def measure(row: Callable[..., dict[str, Any]], calls: int, latency: float) -> list[dict[str, Any]]:
    """``row`` measures one: the way, calls, level (0 for adaptive), latency, and the server's settings."""
    rows = []
    for server, script in SERVERS.items():
        for level in (0, *LEVELS):
            found = {**row("nfilter", calls, level, latency, **script), "server": server}
            rows.append(found)
            print(found, file=sys.stderr, flush=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Seconds of each, and over the best fixed level at the same server."""
    lines = [
        f"| over {CAPACITY} calls at a time | C | wall s | over the best fixed C | 429s | most at a time |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        fixed = [
            each["wall"] for each in rows
            if each["server"] == row["server"] and each["level"] != "adaptive" and not each["trouble"]
        ]  # fmt: skip
        if row["trouble"]:
            cells = [row["trouble"], ""]
        else:
            cells = [f"{row['wall']:.1f}", f"{row['wall'] / min(fixed):.2f}" if fixed else ""]
        lines.append(
            f"| {row['server']} | {row['level']} | {' | '.join(cells)} | {row['limited']:,} | {row['most_in_flight']:,} |"
        )
    return "\n".join(lines)
