"""JSON that is read right or refused: no key twice, no NaN, no infinity, no number that a float cannot hold."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: if it is not JSON, has a key twice in one object, or a number that is not finite.
        RecursionError: if it has more levels than Python reads.
    """
    return json.loads(
        text, parse_constant=_constant, parse_float=_number, object_pairs_hook=_object
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"the key {twice[:60]!r} stands twice, and which value is meant is unknown"
        )
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:60]} is too large")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
