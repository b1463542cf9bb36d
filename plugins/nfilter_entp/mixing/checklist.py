"""Parse a model's checklist: the failures from a fixed list, as JSON after the call's code (ENTP)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nfilter import Fence

MAX_ITEMS = 20  # maximum items per key
MAX_ITEM_LENGTH = 500  # maximum characters per item

_FENCED = "```"


def read(text: str, fence: Fence, keys: Sequence[str]) -> Mapping[str, list[str]] | str:
    """Return the failures in a reply by key (empty lists if none), or the reason that the reply cannot be read.

    After the last "Checklist CODE:" there must be one JSON object with exactly ``keys``, each a list of texts, and nothing else. Text
    elsewhere in the reply, such as an echo of the data, is ignored. Duplicate keys, long lists and empty texts are rejected: a
    reply that is only partly understood must not pass.
    """
    block = fence.behind(text, "Checklist")
    if block is None:
        return "no line begins with Checklist and the code"
    inner = _unwrapped(unmarked(block, fence))
    if not (inner.startswith("{") and inner.endswith("}")):
        return "the text after Checklist and the code is not a JSON object"
    try:
        value = json.loads(inner, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        return f"the checklist is not JSON: {error}"
    if not isinstance(value, dict) or set(value) != set(keys):
        return f"the keys of the checklist are not {', '.join(keys)}"
    invalid = next((key for key in keys if not _is_list_of_texts(value[key])), None)
    if invalid is not None:
        return f"{invalid} is not a list of at most {MAX_ITEMS} texts"
    return {
        key: [clean(fence.without(" ".join(item.split())))[:MAX_ITEM_LENGTH] for item in value[key]]
        for key in keys
    }


def _is_list_of_texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_ITEMS
        and all(isinstance(item, str) and item.strip() for item in value)
    )


def clean(text: str) -> str:
    """Return ``text`` with lone surrogates replaced; files cannot store them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def unmarked(text: str, fence: Fence) -> str:
    """Return ``text`` without lines that contain only BEGIN or END and the call's code."""
    mark = rf"^[^\w\n]*+(?:BEGIN|END)[^\w\n]*+{fence.code}[^\w\n]*+(?:\n|\Z)"
    return re.sub(mark, "", text, flags=re.IGNORECASE | re.MULTILINE)


def _unwrapped(text: str) -> str:
    """Return the content of a code block or bold text. No regular expression, so that time is linear."""
    inner = text.strip().removeprefix("**").lstrip()
    if inner.startswith(_FENCED):
        inner = inner.removeprefix(_FENCED).removeprefix("json")
    return inner.removesuffix(_FENCED).strip()


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value
