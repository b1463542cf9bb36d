"""Detection of datasets for other purposes (preference pairs, plain text), with advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_PROMPTS: Final = ("prompt", "question", "query", "instruction", "input")
_TEXTS: Final = ("text", "content", "document")


def other_purpose(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return advice on preference pairs or plain text, recognised by their columns; None for other data."""
    if "chosen" in names and "rejected" in names:
        return _preference_advice(names, rows)
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


def _preference_advice(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    return (
        "preference pairs (DPO) have two answers per prompt, but nfilter reads one per row. The chosen answers can be cleaned, "
        f"and the rejected ones are kept unchanged: {_preference_remedy(names, rows)}"
    )


def _preference_remedy(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    prompt = next((name for name in _PROMPTS if name in names), None)
    chosen = next((row["chosen"] for row in rows if row.get("chosen")), None)
    if isinstance(chosen, list):
        roles = [turn.get("role") for turn in chosen if isinstance(turn, Mapping)]
        if "user" in roles:
            return "type `shape: messages` and `columns: {messages: chosen}`"
        return "join the turns of prompt and chosen into one column `messages`"
    if prompt is None:
        return "split prompt and answer into the columns prompt and response"
    return f"type `shape: prompt` and `columns: {{prompt: {prompt}, response: chosen}}`"
