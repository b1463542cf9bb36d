"""How figures are written: numbers, intervals, tables. No number is typed anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.evidence.figures import Spread

NOT_RUN: Final = "not run"
NONE: Final = "–"


def share(value: float | None, sign: str = "") -> str:
    """A share as ``.873``, with ``sign="+"`` always signed; a dash for what is undefined."""
    if value is None:
        return NONE
    text = f"{value:{sign}.3f}"
    if text.lstrip("+-") == "0.000":
        return "+.000" if sign else ".000"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def mean_sd(value: Spread | None) -> str:
    """``.873 (.012)``: the mean and, of more than one seed, the standard deviation."""
    if value is None:
        return NONE
    return share(value.mean) if value.sd is None else f"{share(value.mean)} ({share(value.sd)})"


def interval(value: Mapping[str, Any] | None) -> str:
    """A paired difference with its 95% interval, ``+.074 [+.050, +.097]``."""
    if value is None:
        return NONE
    return f"{share(value['mean'], '+')} [{share(value['low'], '+')}, {share(value['high'], '+')}]"


def ratio(value: float | None, bounds: Mapping[str, Any] | None) -> str:
    """A ratio of differences with its 95% interval, ``.692 [.310, 1.240]``; ``[unbounded]`` where it has none."""
    if value is None:
        return NONE
    ends = f"{share(bounds['low'])}, {share(bounds['high'])}" if bounds else "unbounded"
    return f"{share(value)} [{ends}]"


def count(value: Spread | None) -> str:
    """A mean number of things, whole where it is."""
    if value is None:
        return NONE
    return f"{value.mean:.0f}" if value.mean == int(value.mean) else f"{value.mean:.1f}"


def seconds(value: Spread | None) -> str:
    """A mean time in whole seconds."""
    return NONE if value is None else f"{value.mean:.0f}"


def number(value: float | None) -> str:
    """A number with two decimals."""
    return NONE if value is None else f"{value:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table. A bar in a cell would end it, so none gets in."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in lines
    )


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def bullets(lines: Iterable[str]) -> str:
    """A markdown list."""
    return "\n".join(f"- {line}" for line in lines)
