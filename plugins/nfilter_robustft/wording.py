"""How a new answer is written in the place of an old one."""

from __future__ import annotations

import string
from collections.abc import Sequence


def in_the_form_of(old: str, label: str | None, answer: str, options: Sequence[str]) -> str | None:
    """``answer`` spelled out as ``old`` is ("neutral", "B) neutral"); None where ``old`` does not name its option."""
    if label is None:
        return None
    places = [string.ascii_uppercase.find(letter) for letter in (label, answer)]
    if any(not 0 <= place < len(options) for place in places):
        return None
    was, now = (options[place] for place in places)
    head = old.removesuffix(was)
    if old == head or len(head) > 4 or (head and label not in head):
        return None
    return head.replace(label, answer, 1) + now
