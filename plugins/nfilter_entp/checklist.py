"""Checklists that a model fills in: which of a fixed list of things are wrong, as JSON behind the call's code (ENTP)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nfilter import Fence

MOST = 20  # items under one key
LONGEST = 500  # characters of an item

_WRAPPED = re.compile(r"(?:\*\*)?\s*(?:```(?:json)?\s*)?(\{.*\})\s*(?:```)?\s*", re.DOTALL)


def read(text: str, fence: Fence, keys: Sequence[str]) -> Mapping[str, list[str]] | str:
    """What a reply says is wrong, by key, an empty list where nothing is; or why the reply cannot be read.

    Behind the last "Checklist CODE:" has to stand one JSON object with exactly ``keys``, each a list of texts, and
    nothing else: whatever else is in the reply, an echo of the data for one, says nothing. A key that is there twice, a
    list that is too long, and a text that is empty are refused too. No reply is half read: it would pass where it was not understood.
    """
    said = fence.behind(text, "Checklist")
    if said is None:
        return "no line begins with Checklist and the code"
    match = _WRAPPED.fullmatch(said)
    if match is None:
        return "what is behind Checklist and the code is no JSON object"
    try:
        value = json.loads(match[1], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return f"the checklist is not JSON: {error}"
    if not isinstance(value, dict) or set(value) != set(keys):
        return f"the checklist has not exactly the keys {', '.join(keys)}"
    wrong = next((key for key in keys if not _is_list_of_texts(value[key])), None)
    if wrong is not None:
        return f"{wrong} is not a list of at most {MOST} texts"
    return {
        key: [clean(fence.without(" ".join(item.split())))[:LONGEST] for item in value[key]]
        for key in keys
    }


def _is_list_of_texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MOST
        and all(isinstance(item, str) and item.strip() for item in value)
    )


def clean(text: str) -> str:
    """``text`` without half characters, which a reply may spell and no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value
