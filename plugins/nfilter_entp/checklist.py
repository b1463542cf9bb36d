"""Checklists that a model fills in: which of a fixed list of things are wrong, as JSON behind the call's code (ENTP)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nfilter import Fence

MOST = 20  # items under one key
LONGEST = 500  # characters of an item

_FENCED = "```"


def read(text: str, fence: Fence, keys: Sequence[str]) -> Mapping[str, list[str]] | str:
    """What a reply says is wrong, by key, an empty list where nothing is; or why the reply cannot be read.

    Behind the last "Checklist CODE:" has to stand one JSON object with exactly ``keys``, each a list of texts, and
    nothing else: whatever else is in the reply, an echo of the data for one, says nothing. A key that is there twice, a
    list that is too long, and a text that is empty are refused too. No reply is half read: it would pass where it was not understood.
    """
    said = fence.behind(text, "Checklist")
    if said is None:
        return "no line begins with Checklist and the code"
    inner = _unwrapped(unmarked(said, fence))
    if not (inner.startswith("{") and inner.endswith("}")):
        return "what is behind Checklist and the code is no JSON object"
    try:
        value = json.loads(inner, object_pairs_hook=_once)
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


def unmarked(text: str, fence: Fence) -> str:
    """``text`` without lines that are only BEGIN or END and the call's code, as around the data of a prompt."""
    mark = rf"^[^\w\n]*+(?:BEGIN|END)[^\w\n]*+{fence.code}[^\w\n]*+(?:\n|\Z)"
    return re.sub(mark, "", text, flags=re.IGNORECASE | re.MULTILINE)


def _unwrapped(text: str) -> str:
    """What a block of code, or the end of bold type, is put around. By hand: no reply takes longer than it is long."""
    inner = text.strip().removeprefix("**").lstrip()
    if inner.startswith(_FENCED):
        inner = inner.removeprefix(_FENCED).removeprefix("json")
    return inner.removesuffix(_FENCED).strip()


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value
