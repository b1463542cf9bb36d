"""Small values that are kept in the user's cache between runs: a file of JSON that may be lost at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def recall(file: Path) -> dict[str, Any]:
    """What ``file`` holds, by key; nothing where it is not there or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else {}


def remember(file: Path, known: Mapping[str, Any]) -> None:
    """Replace what ``file`` holds. A home that cannot be written costs the next run the same work, no more."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
        partial.replace(file)
    except OSError:
        return
