"""Small values in the user's cache: JSON files that may be deleted at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nfilter import StoreError, publishing


def recall(file: Path) -> dict[str, Any]:
    """Return the values in ``file`` by key; empty if it is missing or invalid."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else {}


def remember(file: Path, known: Mapping[str, Any]) -> None:
    """Replace the values in ``file``. If it cannot be written, the next run computes them again."""
    with suppress(OSError, StoreError), publishing(file) as out:
        out.write(json.dumps(known, indent=1))
