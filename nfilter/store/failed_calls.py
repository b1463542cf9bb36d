"""Calls that brought no answer, in words: a run warns of them, and its screen and page show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def told(model: str, ended: Mapping[str, Any]) -> str:
    """``3 of 40 calls to expert failed (2 too_long, 1 server)``; ``ended`` is what ``Journal.outcomes`` has of a model.

    Over several seeds its numbers are means.
    """
    kinds = ", ".join(f"{_number(count)} {kind}" for kind, count in ended["kinds"].items())
    said = f"{_number(ended['failed'])} of {_number(ended['calls'])} calls to {model} failed"
    return f"{said} ({kinds})" if kinds else said


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
