"""Replies in JSON: ``{"answer": "C"}``, alone, in a code block, or at the end of a text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_NAMES = (
    "answer", "finalanswer", "correctanswer", "correctoption", "finalchoice", "option", "choice", "letter", "label",
)  # fmt: skip
_REASONS = frozenset(
    {
        "reason", "reasons", "reasoning", "explanation", "rationale", "justification", "thought", "thoughts", "steps", "analysis",
        "confidence", "question", "query",
    }
)  # fmt: skip
_MOST = 8  # opening braces tried, from the end
_FENCE = re.compile(r"\A```[A-Za-z]{0,10}\s*")
_BLOCK = re.compile(r"```[A-Za-z]{0,10}\s*\Z")


def named_answer(text: str, *, alone: bool = False) -> str:
    """``text`` with an ``Answer:`` line in place of the JSON object at its end, where that names an answer.

    ``alone`` takes only an object that holds nothing else but reasons: another one may be the answer as a whole.
    """
    stripped = text.rstrip("` \t\r\n")
    if not stripped.endswith("}"):
        return text
    place = len(stripped)
    for _ in range(_MOST):
        place = stripped.rfind("{", 0, place)
        if place < 0:
            return text
        said = _said(_loaded(stripped[place:]), alone=alone)
        if said is not None:
            head, tail = stripped[: max(0, place - 40)], stripped[max(0, place - 40) : place]
            return f"{head}{_BLOCK.sub('', tail)}\nAnswer: {said}"
    return text


def is_unnamed(text: str) -> bool:
    """Whether ``text`` is a JSON object of several values beside reasons, of which none is named as the answer."""
    bare = _FENCE.sub("", text.strip()).rstrip("` \t\r\n")
    if not (bare.startswith("{") and bare.endswith("}")):
        return False
    value = _loaded(bare)
    if not isinstance(value, Mapping) or _said(value, alone=False) is not None:
        return False
    return len({str(key).lower() for key in value} - _REASONS) > 1


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(text.replace("'", '"'), strict=False)
    except (ValueError, RecursionError):
        return None


def _said(value: Any, *, alone: bool) -> str | None:
    """What an object names as its answer: a text as it is, anything else as JSON; None where it names none."""
    if not isinstance(value, Mapping):
        return None
    keys = {re.sub(r"[\W_]", "", str(key)).lower(): key for key in value}
    found = next((keys[name] for name in _NAMES if name in keys), None)
    if found is None or (alone and set(keys) - set(_NAMES) - _REASONS):
        return None
    said = value[found]
    if isinstance(said, Mapping):
        return _said(said, alone=alone)
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
