"""Formatting of a new answer like the response that it replaces."""

from __future__ import annotations

import string
from collections.abc import Sequence


def format_like(old: str, label: str | None, answer: str, options: Sequence[str]) -> str | None:
    """Return ``answer`` in the format of ``old`` ("neutral", "B) neutral"), or None if ``old`` has another format."""
    if label is None:
        return None
    indices = [string.ascii_uppercase.find(letter) for letter in (label, answer)]
    if any(not 0 <= index < len(options) for index in indices):
        return None
    old_option, new_option = (options[index] for index in indices)
    prefix = old.removesuffix(old_option)
    if old == prefix or len(prefix) > 4 or (prefix and label not in prefix):
        return None
    return prefix.replace(label, answer, 1) + new_option
