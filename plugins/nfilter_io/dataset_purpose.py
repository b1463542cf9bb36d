"""Detection of datasets that cannot be read as they are (pairs without prompts, plain text), with advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_TEXTS: Final = ("text", "content", "document")


def other_purpose(names: Sequence[str]) -> str | None:
    """Return advice on preference pairs without prompts or plain text, recognised by their columns; None for other data."""
    if "chosen" in names and "rejected" in names:
        return _preference_advice()
    texts = [name for name in _TEXTS if name in names]
    if texts and set(names) <= {
        *_TEXTS,
        "id",
        "meta",
        "metadata",
        "source",
        "url",
        "timestamp",
        "date",
        "title",
    }:
        return (
            f"plain text (the column {texts[0]!r}) contains no answers to check, and nfilter trains on answers: "
            "split it into the columns prompt and response, or name the column of a label: `shape: label` with "
            f"`columns: {{text: {texts[0]}, label: COLUMN}}`"
        )
    return None


def _preference_advice() -> str:
    return (
        "preference pairs (DPO) need their prompts: name the column of the prompts, `shape: preference` with `columns: {prompt: "
        "COLUMN}`, or write chosen and rejected as lists of turns"
    )
