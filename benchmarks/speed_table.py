"""Ways of the same work, one after another in one process: tokens per second, and the table of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Way = Callable[[], int | tuple[int, float, float]]
"""It does the work once and returns how many tokens that was; a process of its own also its processor time and wall time."""


def measured(ways: dict[str, Way], rounds: int) -> dict[str, Any]:
    """Every way once a round; tokens per second of processor time and of wall time, medians."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(rounds):
        for name, run in ways.items():
            wall, work = time.perf_counter(), time.process_time()
            done = run()
            work, wall = time.process_time() - work, time.perf_counter() - wall
            tokens, work, wall = done if isinstance(done, tuple) else (done, work, wall)
            found[name].append((tokens / work, tokens / wall))
    medians = {
        name: {
            "per_processor_second": round(statistics.median(one for one, _ in every), 1),
            "per_second": round(statistics.median(other for _, other in every), 1),
        }
        for name, every in found.items()
    }
    ratios = {
        name: round(
            statistics.median(
                a / b for (a, _), (b, _) in zip(found["nfilter"], every, strict=True)
            ),
            2,
        )
        for name, every in found.items()
    }
    return {"tokens": medians, "nfilter_times_as_fast": ratios}


def table(title: str, figures: dict[str, Any]) -> str:
    """A line a way."""
    lines = [
        f"| {title} | tokens a processor second | tokens a second | nfilter is |",
        "|---|---|---|---|",
    ]
    for name, one in figures["tokens"].items():
        times = figures["nfilter_times_as_fast"][name]
        ratio = "" if name == "nfilter" else f"{times:.2f}x"
        lines.append(
            f"| {name} | {one['per_processor_second']:,.0f} | {one['per_second']:,.0f} | {ratio} |"
        )
    return "\n".join(lines)
