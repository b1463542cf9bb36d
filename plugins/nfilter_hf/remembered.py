"""Small values that are kept in the user's cache between runs: a file of JSON that may be lost at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nfilter import StoreError, publishing


def recall(file: Path) -> dict[str, Any]:
    """What ``file`` holds, by key; nothing where it is not there or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else {}


def remember(file: Path, known: Mapping[str, Any]) -> None:
    """Replace what ``file`` holds. A home that cannot be written costs the next run the same work, no more."""
    with suppress(OSError, StoreError), publishing(file) as out:
        out.write(json.dumps(known, indent=1))
