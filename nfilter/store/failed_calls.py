"""Failed calls as text, for warnings, the closing screen and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def failed_calls_text(model: str, outcome: Mapping[str, Any]) -> str:
    """Return e.g. ``3 of 40 calls to expert failed (2 too_long, 1 server)``.

    ``outcome`` is the entry of ``model`` in ``Journal.outcomes``; for a group of seeds its numbers are means.
    """
    kinds = ", ".join(f"{_number(count)} {kind}" for kind, count in outcome["kinds"].items())
    text = f"{_number(outcome['failed'])} of {_number(outcome['calls'])} calls to {model} failed"
    return f"{text} ({kinds})" if kinds else text


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
